"""OpenAI's CLIP (Radford et al. 2021) from its own files, as transformers' networks.

Shape legend: T frames, B texts, S words, C features.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from videoaccel.eval.backbones import Backbone, Backbones

CLIP_B32 = Backbone(
    "clip_model/ViT-B-32.pt",
    "https://openaipublic.azureedge.net/clip/models/"
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    ("~/.cache/clip/ViT-B-32.pt",),
)
CLIP_L14 = Backbone(
    "clip_model/ViT-L-14.pt",
    "https://openaipublic.azureedge.net/clip/models/"
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    ("~/.cache/clip/ViT-L-14.pt",),
)
_CHUNK = 8  # frames at a time
_HEAD = 64  # width of an attention head, in all of CLIP's
_PARTS = {
    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


class ClipVision(nn.Module):
    """Pictures to CLIP's features."""

    def __init__(self, network: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.network = network

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """Features [T, C] of pictures [T, 3, 224, 224], not of unit length."""
        device = self.network.device
        return torch.cat([self.network(pixel_values=part.to(device)).image_embeds for part in pictures.split(_CHUNK)])


class ClipText(nn.Module):
    """Words to CLIP's features.

    Attributes:
        scale: CLIP's temperature, by which its logits are cosines times 100 at most.
    """

    def __init__(self, network: CLIPTextModelWithProjection, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    @torch.inference_mode()
    def features(self, words: Tensor) -> Tensor:
        """Features [B, C] of words' numbers [B, S], not of unit length."""
        return self.network(input_ids=words.to(self.network.device)).text_embeds


def load_clip_vision(backbones: Backbones, backbone: Backbone) -> ClipVision:
    """The half of CLIP that sees.

    Raises:
        MissingBackbone: The file is not there.
        ValueError: It holds something else.
    """
    weights = backbones.load(backbone)
    try:
        width, features = weights["visual.proj"].shape
        patch = weights["visual.conv1.weight"].shape[-1]
        config = CLIPVisionConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=_layers(weights, "visual.transformer."),
            num_attention_heads=width // _HEAD, patch_size=patch, projection_dim=features, hidden_act="quick_gelu",
            layer_norm_eps=1e-5, image_size=224,
        )  # fmt: skip
        network = CLIPVisionModelWithProjection(config)
        network.load_state_dict(
            {
                "vision_model.embeddings.class_embedding": weights["visual.class_embedding"],
                "vision_model.embeddings.patch_embedding.weight": weights["visual.conv1.weight"],
                "vision_model.embeddings.position_embedding.weight": weights["visual.positional_embedding"],
                "visual_projection.weight": weights["visual.proj"].T,
                **_norm(weights, "visual.ln_pre", "vision_model.pre_layrnorm"),
                **_norm(weights, "visual.ln_post", "vision_model.post_layernorm"),
                **_blocks(weights, "visual.transformer.", "vision_model."),
            }
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{backbones.find(backbone)} is not a CLIP vision transformer") from error
    return ClipVision(network.eval().requires_grad_(False))


def load_clip_text(backbones: Backbones, backbone: Backbone) -> ClipText:
    """The half of CLIP that reads; errors as of `load_clip_vision`."""
    weights = backbones.load(backbone)
    try:
        words, width = weights["token_embedding.weight"].shape
        config = CLIPTextConfig(
            vocab_size=words, hidden_size=width, intermediate_size=4 * width, projection_dim=width,
            num_hidden_layers=_layers(weights, "transformer."), num_attention_heads=width // _HEAD,
            max_position_embeddings=len(weights["positional_embedding"]), hidden_act="quick_gelu",
            layer_norm_eps=1e-5, bos_token_id=words - 2, eos_token_id=words - 1,
        )  # fmt: skip
        network = CLIPTextModelWithProjection(config)
        network.load_state_dict(
            {
                "text_model.embeddings.token_embedding.weight": weights["token_embedding.weight"],
                "text_model.embeddings.position_embedding.weight": weights["positional_embedding"],
                "text_projection.weight": weights["text_projection"].T,
                **_norm(weights, "ln_final", "text_model.final_layer_norm"),
                **_blocks(weights, "transformer.", "text_model."),
            }
        )
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{backbones.find(backbone)} is not a CLIP text transformer") from error
    return ClipText(network.eval().requires_grad_(False), float(weights["logit_scale"].exp()))


def _layers(weights: dict[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[prefix.count(".") + 1] for name in weights if name.startswith(f"{prefix}resblocks.")})


def _norm(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{kind}": weights[f"{old}.{kind}"] for kind in ("weight", "bias")}


def _blocks(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The transformer's tensors under transformers' names; q, k and v apart."""
    found = {}
    for name, tensor in weights.items():
        if not name.startswith(f"{old}resblocks."):
            continue
        number, rest = name.removeprefix(f"{old}resblocks.").split(".", 1)
        layer = f"{new}encoder.layers.{number}"
        if rest.startswith("attn.in_proj_"):
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}"] = piece
        else:
            part, kind = rest.rsplit(".", 1)
            found[f"{layer}.{_PARTS[part]}.{kind}"] = tensor
    return found
