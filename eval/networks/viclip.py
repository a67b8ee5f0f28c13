"""ViCLIP: clips and words in one space (Wang et al., "InternVid", ICLR 2024).

CLIP's ViT-L/14 with attention over all patches of eight frames at once and a learned embedding of time. Released
weights load by their names.

Shape legend: B clips or texts, T frames, H, W pixels, N patches of a frame, S words, C width, E features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoaccel.eval.backbones import Backbone, Backbones

VICLIP_L14 = Backbone(
    "ViCLIP/ViClip-InternVid-10M-FLT.pth",
    "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
)
FRAMES, CONTEXT = 8, 32
"""Frames of a clip and words of a text that the network sees."""


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)
        return self.c_proj(h * torch.sigmoid(1.702 * h))  # CLIP's approximation of GELU


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn = nn.MultiheadAttention(width, heads)  # for its parameters' names; the arithmetic is below
        self.ln_1, self.ln_2, self.mlp = nn.LayerNorm(width), nn.LayerNorm(width), _Mlp(width)

    def forward(self, x: Tensor, *, causal: bool) -> Tensor:
        h = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in h.chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.attn.out_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        for block in self.resblocks:
            x = block(x, causal=causal)
        return x


class VideoEncoder(nn.Module):
    """Clips [B, T, 3, H, W] to features [B, E].

    Args:
        side: H and W.
        patch: Side of a patch, pixels.
        width: C.
        layers: Blocks.
        heads: Of attention.
        features: E.
    """

    def __init__(self, *, side: int, patch: int, width: int, layers: int, heads: int, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, FRAMES, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Transformer(width, layers, heads)
        self.proj = nn.Parameter(torch.zeros(width, features))

    def forward(self, clips: Tensor) -> Tensor:
        """As the class says."""
        patches = self.conv1(clips.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)  # [B, T, N, C]
        patches = patches + self.positional_embedding[1:] + self.temporal_positional_embedding[:, :, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(clips), 1, -1)
        x = self.transformer(self.ln_pre(torch.cat([first, patches.flatten(1, 2)], dim=1)))
        return self.ln_post(x[:, 0]) @ self.proj


class TextEncoder(nn.Module):
    """Words' numbers [B, S] to features [B, E]; what follows the last word has no effect.

    Args:
        width: C, and E.
        layers: Blocks.
        heads: Of attention.
        words: Size of the vocabulary; the last one ends a text.
    """

    def __init__(self, *, width: int, layers: int, heads: int, words: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.zeros(CONTEXT, width))
        self.transformer = _Transformer(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, width))

    def forward(self, words: Tensor) -> Tensor:
        """As the class says."""
        x = self.transformer(self.token_embedding(words) + self.positional_embedding, causal=True)
        last = self.ln_final(x)[torch.arange(len(words)), words.argmax(dim=-1)]
        return last @ self.text_projection


class ViCLIP(nn.Module):
    """Both encoders; ``temp``, the temperature, is not used for scores."""

    def __init__(self, vision: VideoEncoder, text: TextEncoder) -> None:
        super().__init__()
        self.vision_encoder, self.text_encoder = vision, text
        self.temp = nn.Parameter(torch.tensor(0.01))

    def video_features(self, clips: Tensor) -> Tensor:
        """Features [B, E] of clips [B, 8, 3, 224, 224]; not of unit length."""
        return self.vision_encoder(clips.to(self.temp.device))

    def text_features(self, words: Tensor) -> Tensor:
        """Features [B, E] of words' numbers [B, 32]; not of unit length."""
        return self.text_encoder(words.to(self.temp.device))


def load_viclip(backbones: Backbones) -> ViCLIP:
    """ViCLIP-L with the released weights.

    Raises:
        MissingBackbone: The file is not there.
        ValueError: It holds another network.
    """
    with torch.device("meta"):
        vision = VideoEncoder(side=224, patch=14, width=1024, layers=24, heads=16, features=768)
        network = ViCLIP(vision, TextEncoder(width=768, layers=12, heads=12, words=49408))
    weights = backbones.load(VICLIP_L14, key="model")
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{backbones.find(VICLIP_L14)} is not ViCLIP-L/14") from error
    return network.eval().requires_grad_(False)
