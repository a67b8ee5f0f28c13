"""More tiny pipelines, with loops of their own."""

from typing import Any

import diffusers
import torch

from tests.adapters.image_pipes import SIZE, dpm, flow, small_vae, unet
from tests.adapters.tiny import Tiny, made, numbers, pair
from tests.adapters.video_pipes import CLIP, branches, unipc


def seeded(kind: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    return kind(**fields).eval()


def masks(tokens: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    mask = torch.ones(1, tokens, dtype=dtype)
    return {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}


def hunyuan_15(scheduler: Any = None) -> Tiny:
    """A guider says which calls there are."""
    network = seeded(
        diffusers.HunyuanVideo15Transformer3DModel,
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_refiner_layers=1,
        text_embed_dim=16, text_embed_2_dim=8, image_embed_dim=12, rope_axes_dim=(4, 6, 6), target_size=16,
        task_type="t2v",
    )  # fmt: skip
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        spatial_compression_ratio=4, temporal_compression_ratio=2, downsample_match_channel=False,
        upsample_match_channel=False,
    )  # fmt: skip
    pipe = made(
        diffusers.HunyuanVideo15Pipeline,
        transformer=network, vae=vae, scheduler=scheduler or flow(shift=7.0),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    )  # fmt: skip
    prompt, none = pair(1, 6, 16)
    letters, no_letters = pair(1, 4, 8)
    mask, letters_mask = torch.ones(1, 6), torch.ones(1, 4)
    options = {
        "prompt_embeds": prompt, "prompt_embeds_mask": mask, "negative_prompt_embeds": none,
        "negative_prompt_embeds_mask": mask, "prompt_embeds_2": letters, "prompt_embeds_mask_2": letters_mask,
        "negative_prompt_embeds_2": no_letters, "negative_prompt_embeds_mask_2": letters_mask,
    }  # fmt: skip
    return Tiny(pipe, {**options, "height": 16, "width": 16, "num_frames": 5, "output_type": "latent"})


def skyreels_forcing(scheduler: Any = None, ar_step: int = 0) -> Tiny:
    """A copy of the scheduler steps for every frame."""
    network = seeded(
        diffusers.SkyReelsV2Transformer3DModel,
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderKLWan, base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipe = made(
        diffusers.SkyReelsV2DiffusionForcingPipeline, transformer=network, vae=vae, scheduler=scheduler or unipc()
    )
    options = {**branches(), **CLIP, "prompt": None, "num_frames": 17, "base_num_frames": 17, "ar_step": ar_step}
    return Tiny(pipe, {**options, "causal_block_size": 1 if ar_step else None, "height": 16, "width": 16})


def flux_2(scheduler: Any = None) -> Tiny:
    network = seeded(
        diffusers.Flux2Transformer2DModel,
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip
    pipe = made(diffusers.Flux2Pipeline, transformer=network, scheduler=scheduler or flow())
    return Tiny(pipe, {"prompt_embeds": numbers(1, 8, 16), **SIZE})


def chroma(scheduler: Any = None) -> Tiny:
    """Two calls without names."""
    network = seeded(
        diffusers.ChromaTransformer2DModel,
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    pipe = made(diffusers.ChromaPipeline, transformer=network, scheduler=scheduler or flow())
    return Tiny(pipe, {**branches(8, 32), **masks(8), **SIZE})


def cogview_4(scheduler: Any = None) -> Tiny:
    network = seeded(
        diffusers.CogView4Transformer2DModel,
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, rope_axes_dim=(16, 16),
    )  # fmt: skip
    pipe = made(diffusers.CogView4Pipeline, transformer=network, scheduler=scheduler or flow())
    return Tiny(pipe, {**branches(16, 32), "height": 32, "width": 32, "output_type": "latent"})


def allegro(scheduler: Any = None) -> Tiny:
    network = seeded(
        diffusers.AllegroTransformer3DModel,
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=24, sample_width=8, sample_height=8, sample_frames=8, caption_channels=24,
    )  # fmt: skip
    pipe = made(
        diffusers.AllegroPipeline,
        transformer=network, scheduler=scheduler or diffusers.EulerAncestralDiscreteScheduler(),
    )  # fmt: skip
    return Tiny(
        pipe,
        {
            **branches(8, 24),
            **masks(8),
            "negative_prompt": None,
            "height": 64,
            "width": 64,
            "num_frames": 8,
            "output_type": "latent",
        },
    )


def sana(scheduler: Any = None) -> Tiny:
    network = seeded(
        diffusers.SanaTransformer2DModel,
        patch_size=1, in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=32,
    )  # fmt: skip
    pipe = made(
        diffusers.SanaPipeline,
        transformer=network, scheduler=scheduler or dpm(prediction_type="flow_prediction", use_flow_sigmas=True),
    )  # fmt: skip
    options = {**branches(8, 8), **masks(8), "negative_prompt": None, "use_resolution_binning": False}
    return Tiny(pipe, {**options, "height": 256, "width": 256, "output_type": "latent"})


def lumina_2(scheduler: Any = None) -> Tiny:
    """Two calls without names; the output is negated."""
    network = seeded(
        diffusers.Lumina2Transformer2DModel,
        sample_size=4, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1, num_kv_heads=1,
        multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(128, 128, 128), cap_feat_dim=8, num_refiner_layers=1,
    )  # fmt: skip
    pipe = made(diffusers.Lumina2Pipeline, transformer=network, scheduler=scheduler or flow())
    options = {**branches(8, 8), **masks(8, torch.bool), "height": 32, "width": 32, "output_type": "latent"}
    return Tiny(pipe, options)


def aura_flow(scheduler: Any = None) -> Tiny:
    network = seeded(
        diffusers.AuraFlowTransformer2DModel,
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, out_channels=4,
        pos_embed_max_size=256,
    )  # fmt: skip
    pipe = made(diffusers.AuraFlowPipeline, transformer=network, scheduler=scheduler or flow())
    return Tiny(pipe, {**branches(8, 32), **masks(8), **SIZE})


def hunyuan_dit(scheduler: Any = None) -> Tiny:
    """Predicts a variance that the pipeline drops; DDPM draws noise in every step."""
    network = seeded(
        diffusers.HunyuanDiT2DModel,
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
        activation_fn="gelu-approximate", text_len=8, text_len_t5=8,
    )  # fmt: skip
    pipe = made(
        diffusers.HunyuanDiTPipeline,
        transformer=network, vae=small_vae(), scheduler=scheduler or diffusers.DDPMScheduler(),
        requires_safety_checker=False,
    )  # fmt: skip
    one, none = pair(1, 8, 32)
    mask = torch.ones(1, 8)
    options = {
        f"{side}prompt_{kind}{which}": value
        for side, embeds in (("", one), ("negative_", none))
        for which in ("", "_2")
        for kind, value in (("embeds", embeds), ("attention_mask", mask))
    }
    return Tiny(pipe, {**options, "height": 16, "width": 16, "use_resolution_binning": False, "output_type": "latent"})


def inpainting(scheduler: Any = None) -> Tiny:
    """Nine channels in, four out."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    pipe = made(
        diffusers.StableDiffusionInpaintPipeline,
        unet=unet(in_channels=9), vae=vae, scheduler=scheduler or dpm(), requires_safety_checker=False,
    )  # fmt: skip
    image = numbers(1, 3, 64, 64).sigmoid()
    options = {**branches(5, 8), "image": image, "mask_image": torch.ones(1, 1, 64, 64), **SIZE}
    return Tiny(pipe, options)


def animate_diff(scheduler: Any = None) -> Tiny:
    """Frames in the batch."""
    adapter = seeded(
        diffusers.MotionAdapter,
        block_out_channels=(4, 8), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2,
        motion_mid_block_layers_per_block=1,
    )  # fmt: skip
    pipe = made(
        diffusers.AnimateDiffPipeline,
        unet=unet(), motion_adapter=adapter, vae=small_vae(), scheduler=scheduler or diffusers.DDIMScheduler(),
    )  # fmt: skip
    return Tiny(pipe, {**branches(5, 8), "height": 8, "width": 8, "num_frames": 4, "output_type": "latent"})
