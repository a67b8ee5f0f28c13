"""Tiny video pipelines."""

from typing import Any

import diffusers
import torch

from tests.adapters.image_pipes import SIZE, flow, small_vae
from tests.adapters.tiny import Tiny, made, numbers, pair

CLIP = {**SIZE, "num_frames": 5}


def unipc(**fields: Any) -> Any:
    """As Wan's repositories have it."""
    given = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0, **fields}
    return diffusers.UniPCMultistepScheduler(**given)


def wan_network(seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    given: dict[str, Any] = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
        "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32, **fields,
    }  # fmt: skip
    return diffusers.WanTransformer3DModel(**given).eval()


def branches(tokens: int = 6, width: int = 16) -> dict[str, Any]:
    prompt, none = pair(1, tokens, width)
    return {"prompt_embeds": prompt, "negative_prompt_embeds": none}


def wan(scheduler: Any = None) -> Tiny:
    """Wan 2.1: one named call a branch."""
    pipe = made(diffusers.WanPipeline, transformer=wan_network(), scheduler=scheduler or unipc())
    return Tiny(pipe, {**branches(), **CLIP})


def wan_two(scheduler: Any = None) -> Tiny:
    """Wan 2.2: one network for high noise, one for low, with guidance scales of their own."""
    pipe = made(
        diffusers.WanPipeline,
        transformer=wan_network(), transformer_2=wan_network(1), boundary_ratio=0.8, scheduler=scheduler or unipc(),
    )  # fmt: skip
    return Tiny(pipe, {**branches(), **CLIP, "guidance_scale": 4.0, "guidance_scale_2": 3.0})


def wan_from_video(scheduler: Any = None) -> Tiny:
    """A tail of the timesteps; two calls without names."""
    pipe = made(diffusers.WanVideoToVideoPipeline, transformer=wan_network(), scheduler=scheduler or unipc())
    options = {**branches(), **SIZE, "strength": 0.75, "latents": numbers(1, 4, 2, 8, 8), "video": None}
    return Tiny(pipe, options)


def wan_modular(scheduler: Any = None) -> Tiny:
    """Blocks with a guider: two calls without names."""
    from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep

    pipe = WanCoreDenoiseStep().init_pipeline()
    pipe.update_components(transformer=wan_network(in_channels=16, out_channels=16), scheduler=scheduler or unipc())
    return Tiny(pipe, {**branches(), "height": 64, "width": 64, "num_frames": 5, "output": "latents"})


def skyreels(scheduler: Any = None) -> Tiny:
    torch.manual_seed(0)
    network = diffusers.SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()  # fmt: skip
    pipe = made(diffusers.SkyReelsV2Pipeline, transformer=network, scheduler=scheduler or unipc())
    return Tiny(pipe, {**branches(), **CLIP})


def ltx(scheduler: Any = None) -> Tiny:
    torch.manual_seed(0)
    network = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=2, caption_channels=32,
    ).eval()  # fmt: skip
    pipe = made(diffusers.LTXPipeline, transformer=network, scheduler=scheduler or flow())
    mask = torch.ones(1, 8)
    options = {**branches(8, 32), "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return Tiny(pipe, {**options, **SIZE, "num_frames": 9})


def ltx_2(scheduler: Any = None) -> Tiny:
    """Pictures and sound: three calls an evaluation, two outputs a call, two schedulers."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    torch.manual_seed(0)
    network = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2,
        audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, qk_norm="rms_norm_across_heads",
        caption_channels=16, rope_double_precision=False, rope_type="split",
    ).eval()  # fmt: skip
    sides = {
        f"{side}_connector_{name}": value
        for side in ("video", "audio")
        for name, value in (
            ("num_attention_heads", 4), ("attention_head_dim", 4), ("num_layers", 1),
            ("num_learnable_registers", None),
        )
    }  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=3, connector_rope_base_seq_len=32, rope_theta=10000.0,
        rope_double_precision=False, causal_temporal_positioning=False, rope_type="split", **sides,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLLTX2Video(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        layers_per_block=(1,), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False), downsample_type=("spatial",),
        upsample_residual=(False,), upsample_factor=(1,), timestep_conditioning=False, patch_size=1, patch_size_t=1,
        encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    sound = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, in_channels=2,
        resolution=32, latent_channels=2, norm_type="pixel", causality_axis="height", dropout=0.0,
        mid_block_add_attention=False, sample_rate=16000, mel_hop_length=160, is_causal=True, mel_bins=8,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000,
    )  # fmt: skip
    pipe = made(
        diffusers.LTX2Pipeline,
        transformer=network, scheduler=scheduler or flow(), connectors=connectors, vae=vae, audio_vae=sound,
        vocoder=vocoder,
    )  # fmt: skip
    mask = torch.ones(1, 8, dtype=torch.long)
    options = {
        **branches(8, 48), "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "height": 32,
        "width": 32, "num_frames": 5, "frame_rate": 25.0, "spatio_temporal_guidance_blocks": [1],
        "output_type": "latent",
    }  # fmt: skip
    return Tiny(pipe, options)


def cogvideox(scheduler: Any = None) -> Tiny:
    torch.manual_seed(0)
    network = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=32,
        num_layers=2, sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
        max_text_seq_length=16,
    ).eval()  # fmt: skip
    pipe = made(
        diffusers.CogVideoXPipeline,
        transformer=network, scheduler=scheduler or diffusers.CogVideoXDDIMScheduler(),
    )  # fmt: skip
    options = {**branches(16, 32), "height": 16, "width": 16, "num_frames": 9, "max_sequence_length": 16}
    return Tiny(pipe, {**options, "output_type": "latent"})


def cogvideox_dpm(scheduler: Any = None) -> Tiny:
    """Its scheduler's step has other arguments, and draws noise."""
    return cogvideox(scheduler or diffusers.CogVideoXDPMScheduler())


def hunyuan(scheduler: Any = None) -> Tiny:
    torch.manual_seed(0)
    network = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=16,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    ).eval()  # fmt: skip
    pipe = made(diffusers.HunyuanVideoPipeline, transformer=network, scheduler=scheduler or flow(shift=7.0))
    options = {
        "prompt_embeds": numbers(1, 8, 16), "pooled_prompt_embeds": numbers(1, 8),
        "prompt_attention_mask": torch.ones(1, 8),
    }  # fmt: skip
    return Tiny(pipe, {**options, **CLIP, "height": 32, "width": 32})


def mochi(scheduler: Any = None) -> Tiny:
    """Time runs upwards."""
    torch.manual_seed(0)
    network = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, out_channels=None, qk_norm="rms_norm", text_embed_dim=32, time_embed_dim=4,
        activation_fn="swiglu", max_sequence_length=16,
    ).eval()  # fmt: skip
    pipe = made(
        diffusers.MochiPipeline, transformer=network, scheduler=scheduler or flow(invert_sigmas=True, shift=1.0)
    )
    mask = torch.ones(1, 16, dtype=torch.bool)
    options = {**branches(16, 32), "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return Tiny(pipe, {**options, "height": 16, "width": 16, "num_frames": 7, "output_type": "latent"})


def latte(scheduler: Any = None) -> Tiny:
    """Predicts a variance that the pipeline drops."""
    torch.manual_seed(0)
    network = diffusers.LatteTransformer3DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        video_length=3,
    ).eval()  # fmt: skip
    pipe = made(
        diffusers.LattePipeline,
        transformer=network, vae=small_vae(), scheduler=scheduler or diffusers.DDIMScheduler(),
    )  # fmt: skip
    options = {**branches(6, 32), "prompt": None, "negative_prompt": None, "height": 8, "width": 8, "video_length": 3}
    return Tiny(pipe, {**options, "output_type": "latent"})


def kandinsky_5(scheduler: Any = None) -> Tiny:
    """Returns a bare tensor."""
    torch.manual_seed(0)
    network = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=16, time_dim=32, out_visual_dim=4, patch_size=(1, 2, 2),
        model_dim=48, ff_dim=64, num_text_blocks=1, num_visual_blocks=2, axes_dims=(8, 8, 8), visual_cond=False,
    ).eval()  # fmt: skip
    pipe = made(diffusers.Kandinsky5T2VPipeline, transformer=network, scheduler=scheduler or flow())
    qwen, none = pair(1, 8, 16)
    clip, none_clip = pair(1, 16)
    lengths = torch.tensor([0, 8], dtype=torch.int32)
    options = {
        "prompt_embeds_qwen": qwen, "prompt_embeds_clip": clip, "negative_prompt_embeds_qwen": none,
        "negative_prompt_embeds_clip": none_clip, "prompt_cu_seqlens": lengths, "negative_prompt_cu_seqlens": lengths,
        "prompt": None, "guidance_scale": 3.0,
    }  # fmt: skip
    return Tiny(pipe, {**options, **CLIP})
