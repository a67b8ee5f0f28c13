"""What one run of ``videoaccel train-router`` is told, as one checked value. Nothing here needs torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from videoaccel.settings.calibrate import ModelSettings


def parse_range(text: Any) -> Any:
    """Two shares.

    Raises:
        ValueError: They are none.

    >>> parse_range("0.3:1")
    (0.3, 1.0)
    """
    if not isinstance(text, str):
        return text
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"a range of shares such as 0.3:1 is wanted, got {text!r}") from None
    return low, high


def two_shares(budget: tuple[float, float]) -> tuple[float, float]:
    """The same, if they are.

    Raises:
        ValueError: They are not.
    """
    low, high = budget
    if not 0 < low < high <= 1:
        raise ValueError(f"two shares are wanted, 0 < low < high <= 1, got {low:g}:{high:g}")
    return budget


class RouterSettings(ModelSettings):
    """Everything that ``videoaccel train-router`` can be told.

    Raises:
        ValueError: A field is unknown or a value out of range.
    """

    budget: Annotated[tuple[float, float], BeforeValidator(parse_range), AfterValidator(two_shares)] = Field(
        (0.3, 1.0), description="Least and greatest share of the blocks' FLOPs; in training it is drawn from between."
    )
    iterations: int = Field(2000, ge=1, le=100_000_000, description="Steps of the optimiser.")
    rate: float = Field(1e-3, gt=0, description="Learning rate, reached after a twentieth of the iterations.")
    clips: int = Field(16, ge=1, le=100_000, description="Clips that are sampled from the frozen model to train on.")
    states: int = Field(
        8, ge=1, le=100_000, description="Latents of each clip's way to train on, at evenly spaced steps."
    )
    hidden: int = Field(128, ge=1, le=65_536, description="Hidden size of a router.")
    stride: int = Field(4, ge=1, le=65_536, description="A router looks at every so many places.")
    hidden_weight: float = Field(1.0, ge=0, description="Of the last hidden state's error, beside the velocity's.")
    budget_weight: float = Field(10.0, gt=0, description="Of the squared distance from the budget.")
    warm_start: bool = Field(True, description="Begin with the order of a SODA prior, if there is one.")
    save_every: int = Field(100, ge=1, description="Iterations between two states that a stopped run goes on from.")
    output: str | None = Field(None, description="Where to; by default where generate looks.")
