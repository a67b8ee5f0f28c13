"""Tiny random pipelines for comparing tools: deep enough for block caches, with branches that differ strongly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.adapters import further_pipes as further
from tests.adapters import image_pipes as images
from tests.adapters import more_pipes as more
from tests.adapters import picture_pipes as pictures
from tests.adapters import video_pipes as videos
from tests.adapters.tiny import NETWORKS, Tiny

DEPTH: dict[str, int] = {
    "num_layers": 4, "num_single_layers": 2, "num_visual_blocks": 4, "n_layers": 4, "num_mmdit_layers": 3,
    "num_single_dit_layers": 3,
}  # fmt: skip
"""Blocks of the networks that are made anew, by the name that their configuration has for it."""

LIVELY = 0.3
"""Standard deviation of parameters that are made as zeros (gates of blocks), so that blocks say something."""

Options = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A pipeline and what is asked of it in turn.

    Attributes:
        name: As in the table.
        make: The pipeline.
        generations: Arguments of each call, beyond those of the pipeline; ``other`` asks for another prompt.
    """

    name: str
    make: Callable[[], Tiny]
    generations: Sequence[Options] = ({}, {"seed": 1, "other": True})

    @property
    def steps(self) -> int:
        """Of the first generation: what a user would set a tool up for."""
        return int(self.generations[0].get("steps", 12))

    def build(self) -> Tiny:
        """The pipeline, with deeper networks."""
        tiny = deepened(self.make())
        scaled = {name: stronger(value) for name, value in tiny.options.items() if name.startswith("negative_prompt")}
        tiny.options |= scaled
        return tiny


def deepened(tiny: Tiny) -> Tiny:
    """The same pipeline with networks of four blocks or more, none of whose parameters are zeros."""
    for number, name in enumerate(NETWORKS):
        network = getattr(tiny.pipe, name, None)
        if not isinstance(network, nn.Module):
            continue
        config = {**network.config}
        wider = {key: depth for key, depth in DEPTH.items() if key in config}
        if wider:
            torch.manual_seed(100 + number)
            network = type(network).from_config({**config, **wider}).eval()
            parts = {name: network}
            (tiny.pipe.update_components if hasattr(tiny.pipe, "update_components") else tiny.pipe.register_modules)(
                **parts
            )
        enliven(network, seed=200 + number)
    return Tiny(tiny.pipe, tiny.options, tiny.fixed)


@torch.no_grad()
def enliven(network: nn.Module, *, seed: int) -> None:
    """Fill parameters that are all zeros with noise."""
    chance = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.copy_(LIVELY * torch.randn(parameter.shape, generator=chance))


def stronger(value: Any) -> Any:
    """An embedding whose direction no other has: the branches differ strongly."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and value.std() > 0:
        return 3 * value.flip(-1) + 1
    return [stronger(one) for one in value] if isinstance(value, list) else value


def another(options: Options) -> Options:
    """Arguments for another prompt."""
    found = {name: _rolled(value) for name, value in options.items() if "prompt_embeds" in name and "mask" not in name}
    return {**found, **({"class_labels": [2]} if "class_labels" in options else {})}


def _rolled(value: Any) -> Any:
    return [_rolled(one) for one in value] if isinstance(value, list) else torch.roll(value, 1, -1) * 1.5


def two_samples(options: Options) -> Options:
    """Arguments for a batch of two."""
    doubled = {
        name: torch.cat([value, torch.roll(value, 1, -1) if "embeds" in name and "mask" not in name else value])
        for name, value in options.items()
        if isinstance(value, Tensor) and "prompt" in name and "seqlens" not in name
    }
    return doubled


def _second(**fields: Any) -> Sequence[Options]:
    return ({}, {"seed": 1, "other": True, **fields})


def _few(steps: int) -> Sequence[Options]:
    return ({"steps": steps}, {"steps": steps, "seed": 1, "other": True})


NO_GUIDANCE: Sequence[Options] = ({"guidance_scale": 1.0}, {"guidance_scale": 1.0, "seed": 1, "other": True})

CASES: tuple[Case, ...] = (
    Case("Wan, UniPC", videos.wan),
    Case("Wan, guidance off", videos.wan, NO_GUIDANCE),
    Case("Wan, then 16 steps", videos.wan, _second(steps=16)),
    Case("Wan, then no guidance", videos.wan, _second(guidance_scale=1.0)),
    Case("Wan, then a batch of 2", videos.wan, _second(batch=2)),
    Case("Wan, 8 steps", videos.wan, _few(8)),
    Case("Wan, 4 steps", videos.wan, _few(4)),
    Case("Wan 2.2, two networks", videos.wan_two),
    Case("Wan v2v", videos.wan_from_video),
    Case("Wan i2v", pictures.wan_from_picture),
    Case("Wan VACE", pictures.wan_vace),
    Case("Wan, modular", videos.wan_modular),
    Case("SkyReels V2", videos.skyreels),
    Case("SkyReels V2, forcing", more.skyreels_forcing),
    Case("Cosmos", further.cosmos),
    Case("LTX", videos.ltx),
    Case("LTX, condition", pictures.ltx_condition),
    Case("LTX-2", videos.ltx_2),
    Case("CogVideoX, DDIM", videos.cogvideox),
    Case("CogVideoX, DPM", videos.cogvideox_dpm),
    Case("CogVideoX v2v", pictures.cogvideox_from_video),
    Case("HunyuanVideo", videos.hunyuan),
    Case("HunyuanVideo i2v", pictures.hunyuan_from_picture),
    Case("HunyuanVideo 1.5", more.hunyuan_15),
    Case("Mochi", videos.mochi),
    Case("Latte", videos.latte),
    Case("Allegro", more.allegro),
    Case("Kandinsky 5", videos.kandinsky_5),
    Case("AnimateDiff", more.animate_diff),
    Case("SVD", further.stable_video_diffusion),
    Case("Flux", images.flux),
    Case("Flux, true guidance", images.flux_true_guidance),
    Case("Flux, then 16 steps", images.flux, _second(steps=16)),
    Case("Flux, 4 steps", images.flux, _few(4)),
    Case("Flux img2img", pictures.flux_from_picture),
    Case("Flux Kontext", pictures.flux_kontext),
    Case("Flux ControlNet", pictures.flux_control_net),
    Case("Flux 2", more.flux_2),
    Case("SD3", images.stable_diffusion_3),
    Case("SD3, skip layers", images.stable_diffusion_3_skipping_layers),
    Case("SD3 img2img", pictures.sd3_from_picture),
    Case("SD3 ControlNet", pictures.sd3_control_net),
    Case("Qwen-Image", images.qwen_image),
    Case("Qwen-Image, edit", pictures.qwen_edit),
    Case("Z-Image", images.z_image),
    Case("Chroma", more.chroma),
    Case("CogView 4", more.cogview_4),
    Case("GLM-Image", further.glm_image),
    Case("Lumina 2", more.lumina_2),
    Case("AuraFlow", more.aura_flow),
    Case("Sana", more.sana),
    Case("HunyuanDiT", more.hunyuan_dit),
    Case("DiT", images.dit),
    Case("PixArt", images.pixart),
    Case("SD, PNDM", images.stable_diffusion),
    Case("SD img2img, DPM++", images.stable_diffusion_img2img),
    Case("SD inpaint", more.inpainting),
    Case("SDXL", images.stable_diffusion_xl),
    Case("SD ControlNet", images.control_net),
    Case("MusicLDM", images.music_ldm),
    Case("Stable Audio", further.stable_audio),
)
"""Not Helios, Flux 2 Klein KV and ACE-Step: what they are called with changes on the way: no run of theirs stands."""
