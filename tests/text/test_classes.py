"""Classes by name and number."""

import pytest
import torch

from videoaccel.text.classes import ClassNames
from videoaccel.text.encoder import encode

NAMES = ClassNames({"0": "tench, Tinca tinca", "2": "great white shark, white shark", "3": "crane", "10": "crane, jib"})


@pytest.mark.parametrize(
    "prompt, number",
    [
        ("tench", 0), ("Tinca tinca", 0), ("TENCH, tinca tinca", 0), (" white shark ", 2), ("jib", 10), ("7", 7),
        ("great white shark, white shark", 2),
    ],
)  # fmt: skip
def test_a_class_has_names_and_a_number(prompt: str, number: int) -> None:
    assert NAMES.number(prompt) == number


def test_states_are_the_numbers() -> None:
    found = encode(["jib", "2"], tokenizer=None, text_encoder=NAMES, max_length=1)
    assert torch.equal(found.states, torch.tensor([10.0, 2.0]).view(2, 1, 1, 1))
    assert found.mask.tolist() == [[1], [1]] and found.cut == (0, 0)


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("crane", "classes 3 and 10 are both called 'crane'; give the number"),
        ("white shak", "no class is called 'white shak'; like it are white shark, great white shark; the number"),
        ("xyz", "no class is called 'xyz'; 9 names are known; the number"),
    ],
)
def test_what_names_no_class_is_refused(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NAMES.number(prompt)


def test_without_names_there_are_numbers() -> None:
    assert ClassNames().number("5") == 5
    with pytest.raises(ValueError, match="0 names are known"):
        ClassNames().number("tench")
