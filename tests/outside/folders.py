"""Folders with tiny random pipelines of diffusers that run from text to files."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from tests.adapters.image_pipes import dit
from tests.adapters.tiny import made
from tests.adapters.video_pipes import unipc, wan_network
from tests.text.tiny_t5 import CONFIG, build_tokenizer
from videoaccel.common.versions import at_least

CLASSES = {"1": "tench, Tinca tinca", "2": "goldfish"}


def save_dit(folder: Path) -> Path:
    """Pictures of classes."""
    pipe = dit().pipe
    pipe.register_to_config(id2label=CLASSES)
    pipe.save_pretrained(folder)
    return folder


def wan_parts(**fields: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    text = UMT5EncoderModel(UMT5Config(**CONFIG)).eval()
    vae = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    return {
        "text_encoder": text, "tokenizer": build_tokenizer(), "vae": vae, "scheduler": unipc(),
        "transformer": wan_network(), **fields,
    }  # fmt: skip


def save_wan(folder: Path) -> Path:
    """Clips of a prompt."""
    made(diffusers.WanPipeline, **wan_parts()).save_pretrained(folder)
    return folder


def short_tokenizer() -> Any:
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 12
    return tokenizer


def save_stable_audio(folder: Path) -> Path:
    """Sound of a prompt."""
    torch.manual_seed(0)
    network = diffusers.StableAudioDiTModel(
        sample_size=16, in_channels=4, num_layers=1, attention_head_dim=8, num_key_value_attention_heads=2,
        out_channels=4, cross_attention_dim=16, time_proj_dim=8, global_states_input_dim=32,
        cross_attention_input_dim=16, num_attention_heads=2,
    ).eval()  # fmt: skip
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    pipe = diffusers.StableAudioPipeline(
        vae=diffusers.AutoencoderOobleck(
            encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_channels=4, decoder_input_channels=4,
            audio_channels=2, channel_multiples=[1, 2], sampling_rate=64,
        ).eval(),
        text_encoder=T5EncoderModel(T5Config(**CONFIG)).eval(),
        projection_model=StableAudioProjectionModel(
            text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=32
        ).eval(),
        tokenizer=short_tokenizer(),
        transformer=network,
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(
            solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        ),
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def save_wan_of_blocks(folder: Path) -> Path:
    """Clips of a prompt, by a modular pipeline."""
    if not at_least("diffusers", "0.37"):
        pytest.skip("diffusers has no such blocks before 0.37")
    from diffusers.modular_pipelines import WanBlocks

    pipe = WanBlocks().init_pipeline()
    parts = wan_parts()
    pipe.update_components(**{name: part for name, part in parts.items() if part is not None})
    pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    return folder
