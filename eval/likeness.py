"""How alike pictures and words are to networks that know both.

Shape legend: T frames or clips, C features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from videoaccel.eval.metric import NotApplicable, Sample, Score
from videoaccel.eval.networks.clip_tokens import Tokenizer
from videoaccel.eval.networks.viclip import CONTEXT, FRAMES, ViCLIP
from videoaccel.eval.sampling import clip_byte_pictures, middle_indices


def cosines(pictures: Tensor, words: Tensor, *, scale: float = 100.0) -> list[float]:
    """Likeness [T] of pictures [T, C] and words [1, C], as VBench has it: CLIP's logits over 100."""
    unit, other = (F.normalize(x.float(), dim=-1) for x in (pictures, words))
    return (scale * unit @ other.T / 100.0)[:, 0].double().tolist()


def text_likeness(network: ViCLIP, tokenizer: Tokenizer, sample: Sample) -> Score:
    """The cosine between a clip and its prompt.

    Raises:
        NotApplicable: The clip has no prompt.
    """
    if not sample.prompt:
        raise NotApplicable("the clip has no prompt")
    indices = middle_indices(FRAMES, len(sample.frames))
    with torch.inference_mode():
        video = network.video_features(clip_byte_pictures(sample.frames[indices])[None])
        words = network.text_features(tokenizer([sample.prompt], CONTEXT))
    (value,) = cosines(video, words)
    return Score(value)
