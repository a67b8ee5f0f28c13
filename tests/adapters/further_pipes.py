"""Tiny pipelines with loops, solvers and encoders that are unlike those of others."""

from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tests.adapters.image_pipes import flow
from tests.adapters.more_pipes import seeded
from tests.adapters.picture_pipes import picture_vae, wan_vae
from tests.adapters.tiny import Tiny, made, numbers, pair
from tests.adapters.video_pipes import branches


def helios(scheduler: Any = None) -> Tiny:
    """Chunk after chunk, each with timesteps anew and a history of those before."""
    network = seeded(
        diffusers.HeliosTransformer3DModel,
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4),
    )  # fmt: skip
    pipe = made(
        diffusers.HeliosPipeline,
        transformer=network, vae=wan_vae(16),
        scheduler=scheduler or diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True),
    )  # fmt: skip
    return Tiny(pipe, {**branches(), "height": 16, "width": 16, "num_frames": 50, "output_type": "latent"})


def glm_image(scheduler: Any = None) -> Tiny:
    """Tokens of a language model beside the prompt."""
    network = seeded(
        diffusers.GlmImageTransformer2DModel,
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=16, time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=128,
    )  # fmt: skip
    vae = picture_vae(4, blocks=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    pipe = made(diffusers.GlmImagePipeline, transformer=network, vae=vae, scheduler=scheduler or flow())
    tokens = torch.arange(4)[None]
    options = {**branches(8, 16), "prior_token_ids": tokens, "height": 32, "width": 32, "guidance_scale": 1.5}
    return Tiny(pipe, {**options, "output_type": "latent"})


def stable_audio(scheduler: Any = None) -> Tiny:
    """Sound, with a solver whose timesteps are not whole."""
    network = seeded(
        diffusers.StableAudioDiTModel,
        sample_size=4, in_channels=3, num_layers=2, attention_head_dim=4, num_key_value_attention_heads=2,
        out_channels=3, cross_attention_dim=4, time_proj_dim=8, global_states_input_dim=8, cross_attention_input_dim=4,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderOobleck, encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3,
        decoder_input_channels=3, audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip
    projection = seeded(
        diffusers.StableAudioProjectionModel, text_encoder_dim=8, conditioning_dim=4, min_value=0, max_value=32
    )
    pipe = made(
        diffusers.StableAudioPipeline,
        transformer=network, vae=vae, projection_model=projection,
        scheduler=scheduler or diffusers.EDMDPMSolverMultistepScheduler(),
    )  # fmt: skip
    return Tiny(pipe, {**branches(6, 8), "output_type": "latent"})


def stable_video_diffusion(scheduler: Any = None) -> Tiny:
    """Guidance is a tensor, another scale for every frame."""
    network = seeded(
        diffusers.UNetSpatioTemporalConditionModel,
        block_out_channels=(32, 64), layers_per_block=1, sample_size=32, in_channels=8, out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=8,
        num_attention_heads=2, projection_class_embeddings_input_dim=96, addition_time_embed_dim=32,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderKLTemporalDecoder,
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
    )  # fmt: skip
    usual = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
        "sigma_max": 700.0, "sigma_min": 0.002, "timestep_type": "continuous", "use_karras_sigmas": True,
        "timestep_spacing": "leading", "steps_offset": 1,
    }  # fmt: skip
    pipe = made(
        diffusers.StableVideoDiffusionPipeline,
        unet=network, vae=vae, scheduler=scheduler or diffusers.EulerDiscreteScheduler(**usual),
    )  # fmt: skip
    object.__setattr__(pipe, "image_encoder", Seer(8))
    object.__setattr__(pipe, "feature_extractor", lambda images, **_: SimpleNamespace(pixel_values=images))
    image = numbers(1, 3, 16, 16).sigmoid()
    options = {"image": image, "height": 16, "width": 16, "num_frames": 2, "max_guidance_scale": 2.5}
    return Tiny(pipe, {**options, "output_type": "latent"})


class Seer(ModelMixin, ConfigMixin):
    """Sees three numbers in a picture."""

    @register_to_config
    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = nn.Linear(3, width)

    def forward(self, image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(image_embeds=self.proj(image.mean((2, 3))))


def ace_step(scheduler: Any = None) -> Tiny:
    """Sound; guidance has a momentum of its own and is off at the end. Only the encoding of texts is stubbed."""
    from diffusers.pipelines.ace_step import AceStepConditionEncoder, AceStepPipeline

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}
    network = seeded(
        diffusers.AceStepTransformer1DModel,
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, in_channels=24, audio_acoustic_hidden_dim=8, **heads,
    )  # fmt: skip
    encoder = seeded(
        AceStepConditionEncoder,
        hidden_size=32, intermediate_size=64, text_hidden_dim=16, timbre_hidden_dim=8,
        num_lyric_encoder_hidden_layers=1, num_timbre_encoder_hidden_layers=1, **heads,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderOobleck, encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3,
        decoder_input_channels=8, audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip
    pipe = made(
        AceStepPipeline, transformer=network, condition_encoder=encoder, vae=vae,
        scheduler=scheduler or flow(num_train_timesteps=1, shift=1.0),
    )  # fmt: skip
    words, lyrics = pair(1, 6, 16)
    masked = torch.ones(1, 6)
    object.__setattr__(pipe, "encode_prompt", lambda **_: (words, masked, lyrics, masked))
    return Tiny(pipe, {"prompt": "", "audio_duration": 0.4, "cfg_interval_end": 0.3, "output_type": "latent"})


def cosmos(scheduler: Any = None) -> Tiny:
    """Judged by a guard, which lets all pass here."""
    network = seeded(
        diffusers.CosmosTransformer3DModel,
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=16, adaln_lora_dim=4, max_size=(4, 32, 32), rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,
    )  # fmt: skip
    vae = seeded(
        diffusers.AutoencoderKLCosmos, latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8), attention_resolutions=(8,), resolution=64, num_layers=1,
        spatial_compression_ratio=4, temporal_compression_ratio=4, scaling_factor=1.0,
    )  # fmt: skip
    usual = {
        "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "rho": 7.0,
        "final_sigmas_type": "sigma_min", "prediction_type": "epsilon",
    }  # fmt: skip
    pipe = made(
        diffusers.CosmosTextToWorldPipeline,
        transformer=network, vae=vae, safety_checker=Guard(),
        scheduler=scheduler or diffusers.EDMEulerScheduler(**usual),
    )  # fmt: skip
    options = {**branches(8, 16), "height": 32, "width": 32, "num_frames": 9, "guidance_scale": 3.0}
    return Tiny(pipe, {**options, "output_type": "latent"})


class Guard(ModelMixin, ConfigMixin):
    """Lets everything pass."""

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video
