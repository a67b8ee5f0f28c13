"""The demo model's tokenizer and tiny T5: the words of the demo world, and letters for everything else."""

import string
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from videoaccel.eval.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

MAX_LENGTH = 40
TOKENS = 20  # of a sentence in training; the longest of the world has 18
READ = 512  # sentences that T5 reads at a time
TEXT_CONFIG = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "is_encoder_decoder": False,
    "use_cache": False,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer in T5's layout (pad 0, end 1, unknown 2): words of the world, else single characters."""
    phrases = ["a an and on background", *COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS]
    words = sorted({word for phrase in phrases for word in phrase.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -4.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in words]
    pieces += [(letter, -8.0) for letter in string.ascii_lowercase + string.digits + string.punctuation]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<pad>", "</s>", "<unk>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    """A two-layer T5 encoder with random weights for this tokenizer."""
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, **TEXT_CONFIG))


class FrozenText:
    """A folder's T5 and its tokenizer, for trainings that read the demo world's sentences."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.encoder = T5EncoderModel.from_pretrained(folder / "text_encoder").float().to(device).requires_grad_(False)

    @torch.no_grad()
    def read(self, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Text states [N, TOKENS, C] in bfloat16 and mask [N, TOKENS], on the encoder's device."""
        device = self.encoder.device
        text = self.tokenizer(sentences, padding="max_length", max_length=TOKENS, return_tensors="pt").to(device)
        states = []
        for ids, mask in zip(text.input_ids.split(READ), text.attention_mask.split(READ), strict=True):
            with torch.autocast(device.type, torch.bfloat16):
                states.append(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.bfloat16())
        return torch.cat(states), text.attention_mask

    def save(self, folder: Path) -> None:
        """Write both as parts of a pipeline folder."""
        self.encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
