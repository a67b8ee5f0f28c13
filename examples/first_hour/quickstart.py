"""A clip, the same clip in half the time, and what that cost.

Run it cell by cell in an editor that knows ``# %%``, or whole: ``python examples/first_hour/quickstart.py``. STEPS=8 in
the environment makes it faster and worse.
"""

# %% A clip of the embedded model; "opensora-v1.2" or a folder of yours goes likewise
import os
import time

import torch

from videoaccel import VideoPipeline

device = "cuda" if torch.cuda.is_available() else "cpu"
steps = int(os.environ.get("STEPS", "30"))
ask = {"seed": 7, "num_inference_steps": steps, "output_type": "pt"}
prompt = "a red circle moves left on a dark blue background"

pipe = VideoPipeline.from_pretrained("demo").to(device).tune()
start = time.perf_counter()
exact = pipe(prompt, **ask).frames[0]
print(f"exact: {time.perf_counter() - start:.1f} s, {len(exact)} frames of {exact.shape[2]}x{exact.shape[3]}")

# %% The same with half of the network's calls, planned from what comes with the model
pipe.accelerate("soda", speedup=2, foreign_prior=steps != 30)
start = time.perf_counter()
fast = pipe(prompt, **ask).frames[0]
error = (fast - exact).square().mean()
print(f"at twice the speed: {time.perf_counter() - start:.1f} s, {-10 * error.log10():.1f} dB PSNR to the exact clip")

# %% And off again: bit for bit what it was
pipe.accelerate(None)
print("off is exact:", bool(torch.equal(pipe(prompt, **ask).frames[0], exact)))
