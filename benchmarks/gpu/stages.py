"""The other stages: the video VAE, its decoders compiled, encoding beside it, and the demo model end to end."""

import importlib.machinery
import importlib.util
import math
import sys
import tempfile
import time
import types
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._dynamo.utils import counters

from benchmarks.gpu.bench import BF16, Bench, error
from videoaccel.media.beside import Beside
from videoaccel.models.compiled import compile_decoders
from videoaccel.models.fused import channels_last, fuse
from videoaccel.models.video_vae import RELEASED_2D, VideoAutoencoder

TINY_VAE: dict[str, Any] = {
    "vae_2d": {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": 4},
    "vae_temporal": {"filters": 4, "num_groups": 2, "num_res_blocks": 1, "channel_multipliers": (1, 1, 2, 2)},
}
FRAMES = 51
PROMPT = "a red circle moves left on a dark blue background"


def vae(bench: Bench) -> None:
    """Decoding 51 frames: as it is, and with channels last and our group norm."""
    fields = TINY_VAE if bench.tiny else {"vae_2d": RELEASED_2D, "vae_temporal": {}}
    with torch.device(bench.device):
        network = VideoAutoencoder(**fields).to(BF16).eval()
    z = torch.randn(1, 4, 15, *bench.latent[1:], device=bench.device)

    def whole() -> None:
        for _ in network.decode_chunks(z, FRAMES):
            pass

    def timed(label: str) -> None:
        start = time.time()
        whole()
        bench.wait()
        bench.put(f"{label}: first, s", round(time.time() - start, 2))
        bench.put(f"{label}: ms", bench.ms(whole, runs=2, warm=0))

    timed("as it is")
    bench.put("peak GiB", bench.peak_gib(whole))
    chunk = z[:, :, :5]
    bench.put(
        "temporal half of 17 frames, ms", bench.ms(lambda: network.decode_spatial_latent(chunk, 17), runs=3, warm=1)
    )
    frames = network.decode_spatial_latent(chunk, 17)[:, :, :4]
    bench.put("frame half of 4 frames, ms", bench.ms(lambda: network._decode_frames(frames), runs=3, warm=1))
    exact = torch.cat(list(network.decode_chunks(z, FRAMES)), dim=2)
    channels_last(network)
    bench.put("norms with a kernel", fuse(network))
    timed("channels last, group norm by a kernel")
    bench.put("error", round(error(torch.cat(list(network.decode_chunks(z, FRAMES)), dim=2), exact), 5))
    bench.put("peak GiB then", bench.peak_gib(whole))
    bench.put("temporal half then, ms", bench.ms(lambda: network.decode_spatial_latent(chunk, 17), runs=3, warm=1))
    bench.put("frame half then, ms", bench.ms(lambda: network._decode_frames(frames), runs=3, warm=1))
    torch.backends.cudnn.benchmark = True
    timed("and cudnn.benchmark")
    torch.backends.cudnn.benchmark = False
    temporal = bench.profile(lambda: network.decode_spatial_latent(chunk, 17))
    bench.put("longest of the temporal half", [[name[:100], count, round(ms, 2)] for name, count, ms in temporal[:12]])
    rows = bench.profile(lambda: network._decode_frames(frames))
    bench.put("longest", [[name[:100], count, round(ms, 2)] for name, count, ms in rows[:12]])


def decoder(bench: Bench) -> None:
    """Decoding 51 frames with compiled decoders, PyTorch's norms and then ours: the first time, and from then on."""
    fields = TINY_VAE if bench.tiny else {"vae_2d": RELEASED_2D, "vae_temporal": {}}
    z = torch.randn(1, 4, 15, *bench.latent[1:], device=bench.device)
    for label, ours in (("PyTorch's norms", False), ("our norms", True)):
        torch.manual_seed(0)
        with torch.device(bench.device):
            network = VideoAutoencoder(**fields).to(BF16).eval()
        channels_last(network)
        if ours:
            fuse(network)
        wanted = network.decode(z, FRAMES)
        bench.put(f"{label}: eager, ms", bench.ms(partial(network.decode, z, FRAMES), runs=3, warm=1))
        before = counters["stats"]["unique_graphs"]
        compile_decoders(network, **({} if bench.cuda else {"backend": "eager"}))
        start = time.time()
        found = network.decode(z, FRAMES)
        bench.wait()
        bench.put(f"{label}: first, s", round(time.time() - start, 1))
        made = counters["stats"]["unique_graphs"] - before
        bench.put(f"{label}: graphs, breaks", [made, len(counters["graph_break"])])
        bench.put(f"{label}: error", round(error(found, wanted), 6))
        bench.put(f"{label}: compiled, ms", bench.ms(partial(network.decode, z, FRAMES), runs=3, warm=1))
        bench.put(f"{label}: peak GiB", bench.peak_gib(partial(network.decode, z, FRAMES)))


def encoding(bench: Bench) -> None:
    """51 frames decoded and encoded, one after the other and beside each other.

    Where there is a video library, by x264; elsewhere by something that is as busy without Python's lock.
    """
    fields = TINY_VAE if bench.tiny else {"vae_2d": RELEASED_2D, "vae_temporal": {}}
    with torch.device(bench.device):
        network = VideoAutoencoder(**fields).to(BF16).eval()
    channels_last(network)
    fuse(network)
    z = torch.randn(1, 4, 15, *bench.latent[1:], device=bench.device)
    bench.put("encoder", "zlib" if importlib.util.find_spec("av") is None else "x264")

    def whole(thread: bool, encodes: bool = True) -> None:
        with _sink(encodes) as write, Beside(thread=thread) as beside:
            for chunk in network.decode_chunks(z, FRAMES):
                frames = chunk[0].float().clamp(-1, 1).add(1).mul(127.5).to(torch.uint8).movedim(0, -1).cpu().numpy()
                beside.do([partial(write, frame) for frame in frames])
            beside.wait()

    whole(True)
    ways = {"decoding alone": (False, False), "in turn": (False, True), "beside": (True, True)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(2 if bench.tiny else 7):
        for name, way in ways.items():
            found[name].append(bench.host_ms(partial(whole, *way), runs=1))
    for name, each in found.items():
        bench.put(f"{name}, ms", sorted(each)[len(each) // 2])


@contextmanager
def _sink(encodes: bool) -> Iterator[Callable[[Any], None]]:
    """Takes frames uint8 [H, W, 3]; does nothing with them unless it ``encodes``."""

    def packed(frame: Any) -> None:
        if encodes:
            zlib.compress(frame.tobytes(), 1)

    if not encodes or importlib.util.find_spec("av") is None:
        yield packed
        return
    from videoaccel.media.writer import Writer

    with tempfile.TemporaryDirectory() as folder, Writer(f"{folder}/a.mp4", fps=24) as writer:
        yield lambda frame: writer.write(frame[None])


def without_av() -> None:
    """Where no video library is installed, an empty one: the network part of a pipeline needs none."""
    if importlib.util.find_spec("av") is None:
        empty = types.ModuleType("av")
        empty.__spec__ = importlib.machinery.ModuleSpec("av", None)
        sys.modules["av"] = empty


def demo(bench: Bench) -> None:
    """The demo model: seconds of a clip, and how near the device's clip is to the CPU's."""
    without_av()
    from videoaccel.generation.pipeline import VideoPipeline

    clips, steps = {}, 4 if bench.tiny else 30
    for device in dict.fromkeys((bench.device.type, "cpu")):
        if device == "cpu" and bench.cuda and bench.left < 30:
            bench.put("cpu", "no time left")
            break
        pipe = VideoPipeline.from_pretrained("demo").to(device)
        pipe.set_progress_bar_config(disable=True)
        ask: dict[str, Any] = {"seed": 1, "output_type": "pt"}
        pipe(PROMPT, num_inference_steps=2, **ask)
        bench.wait()
        start = time.time()
        clips[device] = pipe(PROMPT, num_inference_steps=steps, **ask).frames
        bench.wait()
        bench.put(f"seconds on {device}", round(time.time() - start, 2))
    if len(clips) == 2:
        a, b = (clip.cpu().float() for clip in clips.values())
        bench.put("PSNR between the devices", round(-10 * math.log10(max(1e-12, float((a - b).square().mean()))), 2))
