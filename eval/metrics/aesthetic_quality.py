"""How beautiful frames are, by LAION's linear predictor over CLIP ViT-L/14."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.metric import ClipMetric, Sample, Score
from videoaccel.eval.networks.clip import CLIP_L14, load_clip_vision
from videoaccel.eval.sampling import clip_pictures

AESTHETIC_HEAD = Backbone(
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    "https://github.com/LAION-AI/aesthetic-predictor/blob/main/sa_0_4_vit_l_14_linear.pth?raw=true",
)


def aesthetics(features: Tensor, weight: Tensor, bias: Tensor) -> list[float]:
    """Scores of frames, about 0 to 1, from CLIP features [T, 768] and the predictor's weight [1, 768] and bias [1]."""
    unit = F.normalize(features.float(), dim=-1, p=2)
    return (F.linear(unit, weight, bias)[:, 0] / 10).double().tolist()


class AestheticQuality(ClipMetric):
    """Aesthetic quality, about 0 to 1."""

    title: ClassVar[str] = "aesthetic quality"
    requires: ClassVar[tuple[Backbone, ...]] = (CLIP_L14, AESTHETIC_HEAD)
    weight: Tensor
    bias: Tensor

    def build(self, backbones: Backbones) -> None:
        """Load CLIP ViT-L/14 and the predictor.

        Raises:
            ValueError: The predictor's file holds something else.
        """
        self.network = load_clip_vision(backbones, CLIP_L14)
        head = backbones.load(AESTHETIC_HEAD)
        if {name: tuple(tensor.shape) for name, tensor in head.items()} != {"weight": (1, 768), "bias": (1,)}:
            raise ValueError(f"{backbones.find(AESTHETIC_HEAD)} is not the linear predictor: weight [1, 768], bias [1]")
        self.register_buffer("weight", head["weight"])
        self.register_buffer("bias", head["bias"])

    def measure(self, sample: Sample) -> Score:
        """The mean over all frames."""
        features = self.network.features(clip_pictures(sample.frames))
        values = aesthetics(features.to(self.weight.device), self.weight, self.bias)
        return Score(sum(values) / len(values), frames=tuple(values))
