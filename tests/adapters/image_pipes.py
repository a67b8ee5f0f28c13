"""Tiny image and sound pipelines."""

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from tests.adapters.tiny import Tiny, made, numbers, pair

UNET: dict[str, Any] = {
    "block_out_channels": (4, 8), "layers_per_block": 1, "sample_size": 8, "in_channels": 4, "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 8, "attention_head_dim": 2, "norm_num_groups": 2,
}  # fmt: skip
SIZE = {"height": 64, "width": 64, "output_type": "latent"}
BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def dpm(**fields: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(**BETAS, **fields)


def euler(**fields: Any) -> Any:
    return diffusers.EulerDiscreteScheduler(**BETAS, **fields)


def flow(**fields: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **fields})


def unet(**fields: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**{**UNET, **fields}).eval()


def small_vae() -> Any:
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=2).eval()


def stable_diffusion(scheduler: Any = None, samples: int = 1) -> Tiny:
    """One call with both branches."""
    pipe = made(
        diffusers.StableDiffusionPipeline,
        unet=unet(), scheduler=scheduler or diffusers.PNDMScheduler(skip_prk_steps=True), requires_safety_checker=False,
    )  # fmt: skip
    prompt, none = pair(samples, 5, 8)
    return Tiny(pipe, {"prompt_embeds": prompt, "negative_prompt_embeds": none, **SIZE})


def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(values)


def stable_diffusion_img2img(scheduler: Any = None) -> Tiny:
    """Begins in the midst."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    pipe = made(
        diffusers.StableDiffusionImg2ImgPipeline,
        unet=unet(), vae=vae, scheduler=scheduler or dpm(), requires_safety_checker=False,
    )  # fmt: skip
    prompt, none = pair(1, 5, 8)
    options = {"prompt_embeds": prompt, "negative_prompt_embeds": none, "image": picture(), "strength": 0.75}
    return Tiny(pipe, {**options, "output_type": "latent"})


def stable_diffusion_xl(scheduler: Any = None, **fields: Any) -> Tiny:
    """With added conditions."""
    added = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 2,
        "projection_class_embeddings_input_dim": 6 * 2 + 8,
    }  # fmt: skip
    pipe = made(
        diffusers.StableDiffusionXLPipeline,
        unet=unet(**added, **fields),
        scheduler=scheduler or euler(),
        add_watermarker=False,
    )
    prompt, none = pair(1, 5, 8)
    pooled, none_pooled = pair(1, 8)
    options = {
        "prompt_embeds": prompt, "negative_prompt_embeds": none, "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": none_pooled,
    }  # fmt: skip
    return Tiny(pipe, {**options, **SIZE})


def control_net(scheduler: Any = None) -> Tiny:
    """A ControlNet beside the UNet."""
    base = unet()
    beside = {key: value for key, value in UNET.items() if key not in ("sample_size", "out_channels", "up_block_types")}
    net = diffusers.ControlNetModel(**beside, conditioning_embedding_out_channels=(4, 4, 4, 4)).eval()
    pipe = made(
        diffusers.StableDiffusionControlNetPipeline,
        unet=base, controlnet=net, scheduler=scheduler or dpm(), requires_safety_checker=False,
    )  # fmt: skip
    prompt, none = pair(1, 5, 8)
    image = numbers(1, 3, 64, 64).sigmoid()
    options = {"prompt_embeds": prompt, "negative_prompt_embeds": none, "image": image, "output_type": "latent"}
    return Tiny(pipe, options)


def flux_network() -> Any:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    ).eval()  # fmt: skip


def flux(scheduler: Any = None) -> Tiny:
    """Guidance told to the network: one call."""
    pipe = made(diffusers.FluxPipeline, transformer=flux_network(), scheduler=scheduler or flow())
    prompt, _ = pair(1, 5, 8)
    pooled, _ = pair(1, 8)
    return Tiny(pipe, {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled, **SIZE})


def flux_true_guidance(scheduler: Any = None) -> Tiny:
    """Two named calls."""
    tiny = flux(scheduler)
    _, none = pair(1, 5, 8)
    _, pooled = pair(1, 8)
    tiny.options |= {"true_cfg_scale": 3.0, "negative_prompt_embeds": none, "negative_pooled_prompt_embeds": pooled}
    return tiny


def stable_diffusion_3(scheduler: Any = None) -> Tiny:
    """One call with both branches."""
    torch.manual_seed(0)
    network = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
        pos_embed_max_size=96,
    ).eval()  # fmt: skip
    pipe = made(diffusers.StableDiffusion3Pipeline, transformer=network, scheduler=scheduler or flow())
    prompt, none = pair(1, 8, 32)
    pooled, none_pooled = pair(1, 64)
    options = {
        "prompt_embeds": prompt, "negative_prompt_embeds": none, "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": none_pooled,
    }  # fmt: skip
    return Tiny(pipe, {**options, **SIZE})


def stable_diffusion_3_skipping_layers(scheduler: Any = None) -> Tiny:
    """A second call in some steps only."""
    tiny = stable_diffusion_3(scheduler)
    tiny.options |= {
        "skip_guidance_layers": [0], "skip_layer_guidance_scale": 2.8, "skip_layer_guidance_start": 0.01,
        "skip_layer_guidance_stop": 0.4,
    }  # fmt: skip
    return tiny


def qwen_image(scheduler: Any = None) -> Tiny:
    """Two named calls."""
    torch.manual_seed(0)
    network = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    ).eval()  # fmt: skip
    pipe = made(diffusers.QwenImagePipeline, transformer=network, scheduler=scheduler or flow())
    prompt, none = pair(1, 7, 16)
    mask = torch.ones(1, 7, dtype=torch.long)
    options = {
        "prompt_embeds": prompt, "prompt_embeds_mask": mask, "negative_prompt_embeds": none,
        "negative_prompt_embeds_mask": mask, "true_cfg_scale": 2.0,
    }  # fmt: skip
    return Tiny(pipe, {**options, **SIZE})


def dit(scheduler: Any = None) -> Tiny:
    """Predicts a variance that the pipeline drops; classes, not prompts."""
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=4, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero", norm_elementwise_affine=False,
    ).eval()  # fmt: skip
    pipe = diffusers.DiTPipeline(transformer=network, vae=small_vae(), scheduler=scheduler or diffusers.DDIMScheduler())
    return Tiny(pipe, {"class_labels": [1], "guidance_scale": 4.0, "output_type": "np"})


def pixart(scheduler: Any = None) -> Tiny:
    """Predicts a variance that the pipeline drops."""
    torch.manual_seed(0)
    network = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, use_additional_conditions=False,
    ).eval()  # fmt: skip
    pipe = made(
        diffusers.PixArtSigmaPipeline,
        transformer=network, vae=small_vae(), scheduler=scheduler or diffusers.DPMSolverMultistepScheduler(),
    )  # fmt: skip
    prompt, none = pair(1, 6, 32)
    mask = torch.ones(1, 6)
    options = {
        "prompt_embeds": prompt, "prompt_attention_mask": mask, "negative_prompt_embeds": none,
        "negative_prompt_attention_mask": mask, "negative_prompt": None, "use_resolution_binning": False,
        "height": 8, "width": 8, "output_type": "latent",
    }  # fmt: skip
    return Tiny(pipe, options)


def z_image(scheduler: Any = None) -> Tiny:
    """Lists of tensors in and out; the conditional branch comes first; outputs are negated."""
    torch.manual_seed(0)
    network = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    ).eval()  # fmt: skip
    with torch.no_grad():
        network.x_pad_token.fill_(1.0)
        network.cap_pad_token.fill_(1.0)
    pipe = made(diffusers.ZImagePipeline, transformer=network, scheduler=scheduler or flow())
    options = {"prompt_embeds": [numbers(8, 16)], "negative_prompt_embeds": [numbers(8, 16, seed=4)]}
    return Tiny(pipe, {**options, "guidance_scale": 3.0, **SIZE})


def music_ldm(scheduler: Any = None) -> Tiny:
    """Sound. Only its text encoder's type is stubbed."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    network = unet(
        cross_attention_dim=(4, 8), class_embed_type="simple_projection", projection_class_embeddings_input_dim=8,
        class_embeddings_concat=True,
    )  # fmt: skip
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16000, upsample_initial_channel=4, upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
        )
    )  # fmt: skip
    pipe = made(diffusers.MusicLDMPipeline, unet=network, scheduler=scheduler or dpm(), vocoder=vocoder)
    object.__setattr__(pipe, "text_encoder", SimpleNamespace(text_model=SimpleNamespace(dtype=torch.float32)))
    prompt, none = pair(1, 8)
    options = {"prompt_embeds": prompt, "negative_prompt_embeds": none, "audio_length_in_s": 64 * 4 / 16000}
    return Tiny(pipe, {**options, "output_type": "latent"})
