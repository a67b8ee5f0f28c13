"""Tiny pipelines that begin with a picture, a clip or a control image."""

from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

from tests.adapters.image_pipes import control_net, flow, flux, picture, qwen_image, stable_diffusion_3
from tests.adapters.more_pipes import masks, seeded
from tests.adapters.tiny import Tiny, made, numbers
from tests.adapters.video_pipes import CLIP, branches, cogvideox, hunyuan, unipc, wan_network

FLUX: dict[str, Any] = {
    "patch_size": 1, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (4, 4, 8), "guidance_embeds": True,
}  # fmt: skip


def picture_vae(channels: int = 1, blocks: int = 1, **fields: Any) -> Any:
    given = {
        "latent_channels": channels, "block_out_channels": (4,) * blocks, "norm_num_groups": 2, "scaling_factor": 1.5,
        "down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "shift_factor": 0.06, **fields,
    }  # fmt: skip
    return seeded(diffusers.AutoencoderKL, **given)


def wan_vae(channels: int = 4) -> Any:
    return seeded(
        diffusers.AutoencoderKLWan, base_dim=3, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * channels, latents_std=[1.0] * channels,
    )  # fmt: skip


def clip(frames: int, size: int = 16) -> list[Any]:
    return [picture().resize((size, size))] * frames


def control_net_guessing(scheduler: Any = None) -> Tiny:
    """The ControlNet sees one branch, and zeros are put before its outputs."""
    tiny = control_net(scheduler)
    tiny.options |= {"guess_mode": True, "control_guidance_end": 0.7}
    return tiny


def flux_control_net(scheduler: Any = None) -> Tiny:
    pipe = made(
        diffusers.FluxControlNetPipeline,
        transformer=seeded(diffusers.FluxTransformer2DModel, in_channels=16, **FLUX),
        controlnet=seeded(diffusers.FluxControlNetModel, in_channels=16, **FLUX),
        vae=picture_vae(4), scheduler=scheduler or flow(),
    )  # fmt: skip
    _wake(pipe.controlnet)
    options = {"prompt_embeds": numbers(1, 5, 8), "pooled_prompt_embeds": numbers(1, 8)}
    image = numbers(1, 3, 32, 32).sigmoid()
    return Tiny(pipe, {**options, "control_image": image, "height": 32, "width": 32, "output_type": "latent"})


def sd3_control_net(scheduler: Any = None) -> Tiny:
    fields = {
        "sample_size": 8, "patch_size": 1, "in_channels": 4, "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 64, "out_channels": 4,
        "pos_embed_max_size": 96,
    }  # fmt: skip
    tiny = stable_diffusion_3()
    pipe = made(
        diffusers.StableDiffusion3ControlNetPipeline,
        transformer=tiny.pipe.transformer, scheduler=scheduler or flow(), vae=picture_vae(4),
        controlnet=seeded(diffusers.SD3ControlNetModel, num_layers=1, **fields),
    )  # fmt: skip
    _wake(pipe.controlnet)
    image = numbers(1, 3, 8, 8).sigmoid()
    return Tiny(pipe, {**tiny.options, "control_image": image, "height": 8, "width": 8})


def _wake(network: Any) -> None:
    """Its last layers begin with zeros."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))


def flux_from_picture(scheduler: Any = None) -> Tiny:
    """Begins in the midst."""
    pipe = made(
        diffusers.FluxImg2ImgPipeline,
        transformer=seeded(diffusers.FluxTransformer2DModel, in_channels=4, **FLUX),
        vae=picture_vae(), scheduler=scheduler or flow(),
    )  # fmt: skip
    options = {"image": numbers(1, 3, 32, 32).sigmoid(), "strength": 0.8, "height": 32, "width": 32}
    return Tiny(pipe, {**flux().options, **options})


def flux_kontext(scheduler: Any = None) -> Tiny:
    """The picture's tokens stand behind the latent's, and the output is cut."""
    pipe = made(
        diffusers.FluxKontextPipeline,
        transformer=seeded(diffusers.FluxTransformer2DModel, in_channels=4, **FLUX),
        vae=picture_vae(), scheduler=scheduler or flow(),
    )  # fmt: skip
    options = {"image": picture(), "max_area": 32 * 32, "_auto_resize": False, "height": 32, "width": 32}
    return Tiny(pipe, {**flux().options, **options})


def sd3_from_picture(scheduler: Any = None) -> Tiny:
    """Begins in the midst."""
    tiny = stable_diffusion_3()
    pipe = made(
        diffusers.StableDiffusion3Img2ImgPipeline,
        transformer=tiny.pipe.transformer, vae=picture_vae(4), scheduler=scheduler or flow(),
    )  # fmt: skip
    options = {"image": numbers(1, 3, 8, 8).sigmoid(), "strength": 0.75, "height": 8, "width": 8}
    return Tiny(pipe, {**tiny.options, **options})


def qwen_edit(scheduler: Any = None) -> Tiny:
    """The picture's tokens stand behind the latent's. It is made 1024 x 1024, so the VAE shrinks it by 32."""
    tiny = qwen_image()
    vae = seeded(
        diffusers.AutoencoderKLQwenImage, base_dim=2, z_dim=4, dim_mult=[1] * 6, num_res_blocks=0,
        temperal_downsample=[False] * 5, latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipe = made(
        diffusers.QwenImageEditPipeline, transformer=tiny.pipe.transformer, vae=vae, scheduler=scheduler or flow()
    )
    return Tiny(pipe, {**tiny.options, "image": picture(), "height": 128, "width": 128})


def cogvideox_from_video(scheduler: Any = None) -> Tiny:
    tiny = cogvideox()
    pipe = made(
        diffusers.CogVideoXVideoToVideoPipeline,
        transformer=tiny.pipe.transformer, vae=cogvideox_vae(),
        scheduler=scheduler or diffusers.CogVideoXDDIMScheduler(),
    )  # fmt: skip
    options = {**tiny.options, "video": clip(9), "strength": 0.75}
    options.pop("num_frames")
    return Tiny(pipe, options)


def cogvideox_vae() -> Any:
    return seeded(
        diffusers.AutoencoderKLCogVideoX, in_channels=3, out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip


def hunyuan_from_picture(scheduler: Any = None) -> Tiny:
    """The picture is concatenated to the latent."""
    tiny = hunyuan()
    network = seeded(
        diffusers.HunyuanVideoTransformer3DModel,
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=False, text_embed_dim=16,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4), image_condition_type="latent_concat",
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderKLHunyuanVideo, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        norm_num_groups=4,
    )  # fmt: skip
    pipe = made(
        diffusers.HunyuanVideoImageToVideoPipeline, transformer=network, vae=vae, scheduler=scheduler or flow(shift=7.0)
    )
    options = {**tiny.options, "image": picture(), "num_frames": 9, "height": 16, "width": 16, "guidance_scale": 4.5}
    return Tiny(pipe, options)


def wan_from_picture(scheduler: Any = None) -> Tiny:
    """The picture and its mask are concatenated to the latent."""
    pipe = made(
        diffusers.WanImageToVideoPipeline,
        transformer=wan_network(in_channels=12), vae=wan_vae(), scheduler=scheduler or unipc(),
    )  # fmt: skip
    options = {**branches(), **CLIP, "image": picture(), "height": 16, "width": 16}
    return Tiny(pipe, options)


def wan_vace(scheduler: Any = None) -> Tiny:
    """Further blocks, which run first, take in a clip and a mask."""
    network = seeded(
        diffusers.WanVACETransformer3DModel,
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=16, freq_dim=16, ffn_dim=32, num_layers=3, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32, vace_layers=[0, 2], vace_in_channels=96,
    )  # fmt: skip
    pipe = made(diffusers.WanVACEPipeline, transformer=network, vae=wan_vae(16), scheduler=scheduler or unipc())
    options = {**branches(), "video": clip(5), "mask": [one.convert("L") for one in clip(5)], "num_frames": 5}
    return Tiny(pipe, {**options, "height": 16, "width": 16, "output_type": "latent"})


def ltx_condition(scheduler: Any = None) -> Tiny:
    """Frames that are given; timesteps of their own for each token."""
    network = seeded(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=2, caption_channels=32,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderKLLTXVideo,
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1,) * 4,
        timestep_conditioning=False, patch_size=1, patch_size_t=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    pipe = made(diffusers.LTXConditionPipeline, transformer=network, vae=vae, scheduler=scheduler or flow())
    given = LTXVideoCondition(image=picture().resize((32, 32)))
    options = {**branches(8, 32), **masks(8), "conditions": given, "height": 32, "width": 32, "num_frames": 9}
    return Tiny(pipe, {**options, "output_type": "latent"})


def flux_2_klein_kv(scheduler: Any = None) -> Tiny:
    """The first evaluation returns keys and values of the picture for the others."""
    network = seeded(
        diffusers.Flux2Transformer2DModel,
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderKLFlux2,
        sample_size=32, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,), layers_per_block=1, latent_channels=1, norm_num_groups=1, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip
    pipe = made(diffusers.Flux2KleinKVPipeline, transformer=network, vae=vae, scheduler=scheduler or flow())
    options = {"prompt_embeds": numbers(1, 8, 16), "image": picture(), "height": 16, "width": 16}
    return Tiny(pipe, {**options, "output_type": "latent"})
