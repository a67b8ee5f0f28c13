"""A whole pipeline with tiny random networks, for tests of everything around them."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from tests.models.networks import tiny_stdit
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.models.video_vae import VideoAutoencoder
from videoaccel.sampling.rectified_flow import RectifiedFlowScheduler

DEFAULTS = {
    "height": 32, "width": 32, "num_frames": 17, "fps": 8, "steps": 3, "guidance": 4.0, "aes": None, "align": None,
    "condition_latents": 1, "dtype": "float32",
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """Single characters, padded with 0, ended with 1."""
    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    letters += [(letter, -3.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz0123456789.,:"]
    inner = Tokenizer(models.Unigram(letters, unk_id=2))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def text_encoder(vocabulary: int) -> T5EncoderModel:
    """One layer, 16 channels."""
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    torch.manual_seed(1)
    return T5EncoderModel(T5Config(vocab_size=vocabulary, pad_token_id=0, eos_token_id=1, **sizes)).eval()


def tiny_pipeline() -> VideoPipeline:
    """2x space, 4x time; 3 steps of 17 frames at 32x32 unless told otherwise."""
    torch.manual_seed(0)
    spatial = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": 4}
    temporal = {"filters": 4, "num_groups": 2, "num_res_blocks": 1, "channel_multipliers": (1, 1, 2, 2)}
    words = tokenizer()
    pipe = VideoPipeline(
        transformer=tiny_stdit(depth=1, model_max_length=40, pred_sigma=False),
        vae=VideoAutoencoder(vae_2d=spatial, vae_temporal=temporal).eval(),
        scheduler=RectifiedFlowScheduler(base_size=32),
        tokenizer=words,
        text_encoder=text_encoder(len(words)),
        defaults=DEFAULTS,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
