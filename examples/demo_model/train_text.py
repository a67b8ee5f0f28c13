"""Teach the demo's T5 to read: every word of a sentence is to know what is said of the thing that it belongs to.

    python -m examples.demo_model.train_text --out runs/demo/text

A network that learns to read from pictures alone keeps by heart which of "green" and "blue" goes with "dark" for each
shape, and swaps them where a combination was never shown. Here every token of a phrase ("a blue square bounces", "on a
dark green background") is asked, by linear heads that are thrown away afterwards, which phrase it stands in and
everything that the phrase says. Sentences alone, on more backgrounds than are ever drawn; combinations that are held
out of the pictures do not occur. ``final`` holds ``text_encoder`` and ``tokenizer``.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5EncoderModel

from examples.demo_model.text import TOKENS, build_text_encoder, build_tokenizer
from examples.small_models.recipe import is_held_out as still_is_held_out
from examples.training import Trainer, add_options, fit
from videoaccel.eval.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Actor, is_held_out

SENTENCES = 40_000  # drawn once
PAIR_SHARE, STILL_SHARE, BLANK_SHARE, BARE_SHARE = 0.4, 0.3, 0.15, 0.1
PLACES = ("first", "second", "background")
SHADES = ("", "dark")
HUES = (*COLOURS, "black")
QUESTIONS = {"place": PLACES, "colour": HUES, "shade": SHADES, "shape": SHAPES, "motion": MOTIONS}
UNSAID = -100  # what cross-entropy ignores


class Phrase(NamedTuple):
    """Words of a sentence and what they say, by question."""

    words: list[str]
    says: dict[str, str]


def actor_phrase(actor: Actor, place: str, *, still: bool, blank: bool) -> Phrase:
    """What a sentence says of an actor: without its motion if ``still``, without its shape if ``blank``."""
    says = {"place": place, "colour": actor.colour}
    words = ["an" if actor.colour[0] in "aeiou" else "a", actor.colour]
    if not blank:
        words, says["shape"] = [*words, actor.shape], actor.shape
    if not still:
        words, says["motion"] = [*words, *actor.motion.split()], actor.motion
    return Phrase(words, says)


def ground_phrase(shade: str, hue: str) -> Phrase:
    """What a sentence says of its background."""
    article = "an" if (shade or hue)[0] in "aeiou" else "a"
    words = ["on", article, *([shade] if shade else []), hue, "background"]
    return Phrase(words, {"place": "background", "shade": shade, "colour": hue})


def draw_actors(rng: np.random.Generator) -> tuple[list[Actor], str, str]:
    """One or two actors, shade and hue of a background; nothing that is held out of clips or stills."""
    while True:
        count = 2 if rng.random() < PAIR_SHARE else 1
        actors = [Actor(*(str(rng.choice(list(words))) for words in (COLOURS, SHAPES, MOTIONS))) for _ in range(count)]
        shade, hue = str(rng.choice(SHADES)), str(rng.choice(HUES))
        ground = f"{shade} {hue}".strip()
        alike = len({*(actor.colour for actor in actors), ground}) <= count or ground == "dark black"
        kept = [actor for actor in actors if is_held_out(actor)]
        if ground in BACKGROUNDS:
            kept += [actor for actor in actors if still_is_held_out(actor.colour, actor.shape, ground)]
        if not alike and not kept:
            return actors, shade, hue


def draw_phrases(rng: np.random.Generator) -> list[Phrase]:
    """The phrases of a sentence, in full or with less said."""
    actors, shade, hue = draw_actors(rng)
    still = rng.random() < STILL_SHARE
    blank = still and rng.random() < BLANK_SHARE / STILL_SHARE
    phrases = [actor_phrase(a, place, still=still, blank=blank) for a, place in zip(actors, PLACES, strict=False)]
    return phrases if rng.random() < BARE_SHARE else [*phrases, ground_phrase(shade, hue)]


def sentence_and_answers(phrases: list[Phrase]) -> tuple[str, Tensor]:
    """The sentence and what each token should answer, [TOKENS, questions]; nothing at "and", the end and padding."""
    words: list[str] = []
    answers = torch.full((TOKENS, len(QUESTIONS)), UNSAID)
    for index, phrase in enumerate(phrases):
        if index and phrase.words[0] != "on":
            words.append("and")
        row = [known.index(phrase.says[q]) if q in phrase.says else UNSAID for q, known in QUESTIONS.items()]
        answers[len(words) : len(words) + len(phrase.words)] = torch.tensor(row)
        words += phrase.words
    return " ".join(words), answers


class Reader(nn.Module):
    """A T5 encoder and the heads that question its tokens."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.d_model
        self.heads = nn.ModuleDict({question: nn.Linear(width, len(known)) for question, known in QUESTIONS.items()})

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Logits [B, TOKENS, answers] of every question."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return [head(states) for head in self.heads.values()]


class Sentences:
    """Drawn sentences as token ids [N, TOKENS], mask, and answers [N, TOKENS, questions]."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        drawn = [sentence_and_answers(draw_phrases(rng)) for _ in range(count)]
        text = build_tokenizer()(
            [sentence for sentence, _ in drawn], padding="max_length", max_length=TOKENS, return_tensors="pt"
        )
        self.ids, self.mask = text.input_ids, text.attention_mask
        self.answers = torch.stack([answers for _, answers in drawn])

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random sentences."""
        pick = torch.randint(len(self.ids), (count,), generator=generator)
        return self.ids[pick], self.mask[pick], self.answers[pick]


def reading_loss(reader: Reader, ids: Tensor, mask: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy of all questions."""
    losses = [
        nn.functional.cross_entropy(logits.flatten(0, 1), answers[:, :, column].flatten(), ignore_index=UNSAID)
        for column, logits in enumerate(reader(ids, mask))
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def right(reader: Reader, sentences: Sentences) -> dict[str, float]:
    """Share of right answers by question."""
    found = {}
    for column, (question, logits) in enumerate(zip(QUESTIONS, reader(sentences.ids, sentences.mask), strict=True)):
        asked = sentences.answers[:, :, column] != UNSAID
        found[question] = float((logits.argmax(-1) == sentences.answers[:, :, column])[asked].float().mean())
    return found


def train(args: argparse.Namespace) -> dict[str, float]:
    """Train, and return the shares of right answers to new sentences."""
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer)
    reader = Reader(encoder.float())
    sentences = Sentences(args.sentences, args.seed)

    def export(weights: dict[str, Tensor]) -> None:
        reader.load_state_dict(reader.state_dict() | weights)
        encoder.save_pretrained(args.out / "final" / "text_encoder")
        tokenizer.save_pretrained(args.out / "final" / "tokenizer")

    trainer = Trainer(list(reader.named_parameters()), lambda name, p: False, lambda *x: reading_loss(reader, *x), args)
    fit(trainer, lambda generator: sentences.batch(args.batch, generator), export, args)
    return right(reader, Sentences(2_000, args.seed + 1))


def options(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo/text"))
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="drawn once")
    add_options(parser, steps=1500, batch=128, lr=5e-3, warmup=100, cooldown=1000)
    return parser.parse_args(words)


def main() -> None:
    """Train, and print the shares of right answers."""
    print(train(options()))


if __name__ == "__main__":
    main()
