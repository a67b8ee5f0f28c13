"""Tiny random pipelines of diffusers' own classes, without text encoders or VAEs: embeddings in, latents out."""

import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

LATENT = (8, 8)
"""Rows and columns; 64 pixels for all but Flux, whose VAE packs patches."""

UNET = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}


def dpm(**fields: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **fields
    )


def euler(**fields: Any) -> Any:
    return diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **fields)


def flow(**fields: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **fields)


class Tiny:
    """A pipeline with the arguments of a call.

    Attributes:
        pipe: The pipeline.
        options: Arguments of a call.
        calls: How often the denoiser ran.
    """

    def __init__(self, pipe: Any, denoiser: nn.Module, options: dict[str, Any]) -> None:
        self.pipe, self.denoiser, self.options, self.calls = pipe, denoiser, options, 0
        pipe.set_progress_bar_config(disable=True)
        denoiser.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def __call__(self, *, seed: int = 0, steps: int = 12, **options: Any) -> Tensor:
        """Latents."""
        generator = torch.Generator().manual_seed(seed)
        out = self.pipe(
            num_inference_steps=steps, generator=generator, output_type="latent", **{**self.options, **options}
        )
        return next(iter(out.values()))


def embeddings(*shape: int) -> tuple[Tensor, Tensor]:
    """Of a prompt and of no prompt."""
    g = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=g), torch.randn(*shape, generator=g)


def _without(pipe: type, **parts: Any) -> Any:
    """A pipeline whose other components are None."""
    names = inspect.signature(pipe.__init__).parameters
    nothing = {n: None for n, p in names.items() if n != "self" and p.default is inspect.Parameter.empty}
    return pipe(**{**nothing, **parts})


def stable_diffusion(scheduler: Any, samples: int = 1) -> Tiny:
    """Stable Diffusion 2: one call a step with both branches."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**UNET).eval()
    pipe = _without(diffusers.StableDiffusionPipeline, unet=unet, scheduler=scheduler, requires_safety_checker=False)
    prompt, none = embeddings(samples, 5, 8)
    return Tiny(pipe, unet, {"prompt_embeds": prompt, "negative_prompt_embeds": none, "height": 64, "width": 64})


def stable_diffusion_xl(scheduler: Any) -> Tiny:
    """SDXL: the same with added conditions."""
    torch.manual_seed(0)
    added = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": 6 * 2 + 8,
    }  # fmt: skip
    unet = diffusers.UNet2DConditionModel(**UNET, **added).eval()
    pipe = _without(diffusers.StableDiffusionXLPipeline, unet=unet, scheduler=scheduler, add_watermarker=False)
    prompt, none = embeddings(1, 5, 8)
    pooled, none_pooled = embeddings(1, 8)
    options = {
        "prompt_embeds": prompt, "negative_prompt_embeds": none, "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": none_pooled, "height": 64, "width": 64,
    }  # fmt: skip
    return Tiny(pipe, unet, options)


def control(scheduler: Any) -> Tiny:
    """A ControlNet beside the UNet."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**UNET).eval()
    beside = {key: value for key, value in UNET.items() if key not in ("sample_size", "out_channels", "up_block_types")}
    net = diffusers.ControlNetModel(**beside, conditioning_embedding_out_channels=(4, 4, 4, 4)).eval()
    pipe = _without(
        diffusers.StableDiffusionControlNetPipeline,
        unet=unet, controlnet=net, scheduler=scheduler, requires_safety_checker=False,
    )  # fmt: skip
    prompt, none = embeddings(1, 5, 8)
    options = {"prompt_embeds": prompt, "negative_prompt_embeds": none, "image": torch.rand(1, 3, 64, 64)}
    return Tiny(pipe, unet, options)


def flux(scheduler: Any) -> Tiny:
    """Flux: packed latents, guidance told to the network, named calls."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    ).eval()  # fmt: skip
    pipe = _without(diffusers.FluxPipeline, transformer=transformer, scheduler=scheduler)
    prompt, none = embeddings(1, 5, 8)
    pooled, none_pooled = embeddings(1, 8)
    options = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled, "height": 64, "width": 64}
    made = Tiny(pipe, transformer, options)
    made.guided = {  # type: ignore[attr-defined]
        "true_cfg_scale": 2.0, "negative_prompt_embeds": none, "negative_pooled_prompt_embeds": none_pooled,
    }  # fmt: skip
    return made


def wan(scheduler: Any) -> Tiny:
    """Wan: a video; one named call a branch."""
    torch.manual_seed(0)
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=16, ffn_dim=16, num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    ).eval()  # fmt: skip
    pipe = _without(diffusers.WanPipeline, transformer=transformer, scheduler=scheduler)
    prompt, none = embeddings(1, 5, 8)
    options = {"prompt_embeds": prompt, "negative_prompt_embeds": none, "height": 64, "width": 64, "num_frames": 5}
    return Tiny(pipe, transformer, options)


def music_ldm(scheduler: Any) -> Tiny:
    """MusicLDM: sound; keeps no guidance scale. Only its text encoder's type is stubbed."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(0)
    fields = {**UNET, "cross_attention_dim": (4, 8), "class_embed_type": "simple_projection"}
    unet = diffusers.UNet2DConditionModel(
        **fields, projection_class_embeddings_input_dim=8, class_embeddings_concat=True
    ).eval()
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16000, upsample_initial_channel=4, upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
        )
    )  # fmt: skip
    pipe = _without(diffusers.MusicLDMPipeline, unet=unet, scheduler=scheduler, vocoder=vocoder)
    object.__setattr__(pipe, "text_encoder", SimpleNamespace(text_model=SimpleNamespace(dtype=torch.float32)))
    prompt, none = embeddings(1, 8)
    length = 64 * 4 / 16000
    options = {"prompt_embeds": prompt, "negative_prompt_embeds": none, "audio_length_in_s": length}
    return Tiny(pipe, unet, options)
