"""DINO's ViT-B/16 (Caron et al. 2021), as transformers' ViT with DINO's own way to other picture sizes.

Shape legend: T frames, H, W pixels, h, w patches, C features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from videoaccel.eval.backbones import Backbone, Backbones

DINO_B16 = Backbone(
    "dino_model/dino_vitbase16_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    ("$TORCH_HOME/hub/checkpoints/dino_vitbase16_pretrain.pth",),
)
_CHUNK = 4  # frames at a time


class Dino(nn.Module):
    """Pictures to the features of DINO's class token."""

    def __init__(self, vit: ViTModel) -> None:
        super().__init__()
        self.vit = vit

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """Features [T, C] of pictures [T, 3, H, W] of any size from one patch on, not of unit length."""
        device = self.vit.embeddings.cls_token.device
        return torch.cat([self._class_token(part.to(device)) for part in pictures.split(_CHUNK)])

    def _class_token(self, pictures: Tensor) -> Tensor:
        embeddings = self.vit.embeddings
        patch = embeddings.patch_size
        height, width = pictures.shape[-2] // patch, pictures.shape[-1] // patch
        tokens = embeddings.patch_embeddings.projection(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        x = x + position_embedding(embeddings.position_embeddings, height, width)
        for layer in self.vit.layers:
            x = layer(x, None)
        return self.vit.layernorm(x)[:, 0]


def position_embedding(table: Tensor, height: int, width: int) -> Tensor:
    """DINO's embedding of places [1, 1 + h * w, C], resized from a table [1, 1 + n * n, C].

    It resizes by a factor, a tenth of a patch more than needed, which gives other numbers than resizing to a size.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if (height, width) == (side, side):
        return table
    grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    factors = (height + 0.1) / side, (width + 0.1) / side
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def load_dino(backbones: Backbones) -> Dino:
    """DINO ViT-B/16 with the released weights.

    Raises:
        MissingBackbone: The file is not there.
        ValueError: It holds another network.
    """
    vit = ViTModel(ViTConfig(layer_norm_eps=1e-6), add_pooling_layer=False)  # not transformers' 1e-12
    weights = backbones.load(DINO_B16)
    try:
        vit.load_state_dict(renamed(weights))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{backbones.find(DINO_B16)} is not DINO's ViT-B/16") from error
    return Dino(vit.eval().requires_grad_(False))


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINO's tensors under transformers' names."""
    found = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.position_embeddings": weights["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "layernorm.weight": weights["norm.weight"],
        "layernorm.bias": weights["norm.bias"],
    }
    parts = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    for name, tensor in weights.items():
        if not name.startswith("blocks."):
            continue
        _, number, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        if part == "attn.qkv":
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"layers.{number}.attention.{letter}_proj.{kind}"] = piece
        else:
            found[f"layers.{number}.{parts[part]}.{kind}"] = tensor
    return found
