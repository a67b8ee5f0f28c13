"""Assemble the trained parts into a pipeline folder, in float16.

    python -m examples.demo_model.build --vae runs/demo/vae/final --parts runs/demo/transformer/final

Writes the demo model's folder inside the package unless ``--out`` names another.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from examples.demo_model.recipe import PACKAGED, SIDE
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.models.stdit import STDiT3
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.sampling.rectified_flow import RectifiedFlowScheduler
from videoaccel.settings.config import ModelSpec, load_named


def assemble(vae: Path, parts: Path) -> VideoPipeline:
    """The pipeline of trained parts."""
    return VideoPipeline(
        transformer=STDiT3.from_pretrained(parts / "transformer"),
        vae=VideoAutoencoder.from_pretrained(vae),
        scheduler=RectifiedFlowScheduler(base_size=SIDE),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(parts / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(parts / "text_encoder"),
        defaults=load_named("models", "demo", ModelSpec).defaults.model_dump(),
    )


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/demo/vae/final"))
    parser.add_argument("--parts", type=Path, default=Path("runs/demo/transformer/final"))
    parser.add_argument("--out", type=Path, default=PACKAGED)
    args = parser.parse_args()
    pipeline = assemble(args.vae, args.parts).to(dtype=torch.float16)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        for source in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            target = args.out / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
