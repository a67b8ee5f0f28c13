"""Where a generation keeps what places added at computed steps: finite differences, row by row.

Shape legend: R generation rows (guidance branches times samples), T frames, S places, C channels, k columns.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from videoaccel.models.rows import rows_at


class Slot:
    """The last computed values of one place, and their finite differences up to ``order``.

    ``terms[0]`` is the value of the last computed step; ``terms[j]`` approximates its j-th derivative by step, as in
    TaylorSeer (arXiv 2503.06923): the change of ``terms[j-1]`` over the steps between the last two computed ones.

    Args:
        rows: R, the rows of the whole generation.
        order: Highest difference to keep.
    """

    def __init__(self, rows: int, *, order: int = 0) -> None:
        self.order = order
        self.terms: list[Tensor] = []
        self.steps = [-1] * rows
        self.gaps = [0] * rows
        self.known = [0] * rows

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(term.nbytes for term in self.terms)

    def invalidate(self) -> None:
        """Forget everything: the values belong to another latent."""
        self.terms = []
        self.steps = [-1] * len(self.steps)
        self.known = [0] * len(self.known)

    def age(self, step: int, rows: Sequence[int] | None = None) -> int | None:
        """Steps since the rows were computed, the oldest counting; None if one never was."""
        oldest = min(self.steps if rows is None else (self.steps[row] for row in rows))
        return None if oldest < 0 else step - oldest

    def depth(self, rows: Sequence[int] | None = None) -> int:
        """Terms that are known of all the rows."""
        return min(self.known if rows is None else (self.known[row] for row in rows))

    def write(self, step: int, value: Tensor, rows: Sequence[int] | None = None) -> None:
        """Keep the value [R', ...] computed at ``step`` for ``rows`` (default: all)."""
        index = range(len(self.steps)) if rows is None else rows
        gap = {step - self.steps[row] for row in index}
        depth = min(self.known[row] for row in index)
        terms = [value]
        for j in range(min(depth, self.order) if gap != {0} else 0):
            before = self._rows(self.terms[j], rows)
            terms.append((terms[j] - before) / self._per_row([step - self.steps[row] for row in index], before))
        if rows is None:
            self.terms = terms
        else:
            self._scatter(terms, rows)
        for row in index:
            self.steps[row], self.gaps[row], self.known[row] = step, step - self.steps[row], len(terms)

    def read(self, step: int, rows: Sequence[int] | None = None, *, order: int = 0, gain: float = 1.0) -> Tensor:
        """The value forecast for ``step`` by ``order`` terms, as far as they are known; [R', ...].

        Order 0 returns the stored tensor itself: do not change it (but see :meth:`open`).
        """
        index = range(len(self.steps)) if rows is None else rows
        value = self._rows(self.terms[0], rows)
        ahead = [step - self.steps[row] for row in index]
        for j in range(1, 1 + min(order, min(self.known[row] for row in index) - 1)):
            term = self._rows(self.terms[j], rows)
            factor = self._per_row([gain * k**j / math.factorial(j) for k in ahead], term)
            value = value + factor * term
        return value

    def combine(self, weights: Sequence[float], rows: Sequence[int] | None = None) -> Tensor:
        """``sum(weights * terms)``, [R', ...]; as many terms have to be known."""
        value = weights[0] * self._rows(self.terms[0], rows)
        for weight, term in zip(weights[1:], self.terms[1:], strict=False):
            value = value + weight * self._rows(term, rows)
        return value

    def change(self, rows: Sequence[int] | None = None) -> Tensor:
        """The last value minus the one before, [R', ...]; zero where there is none. Needs order 1."""
        index = range(len(self.steps)) if rows is None else rows
        if min(self.known[row] for row in index) < 2:
            return torch.zeros_like(self._rows(self.terms[0], rows))
        slope = self._rows(self.terms[1], rows)
        return slope * self._per_row([self.gaps[row] for row in index], slope)

    def open(self, rows: Sequence[int] | None = None) -> Tensor | None:
        """The stored value of ``rows`` itself, contiguous, to write some columns into; None where it lies in parts.

        Only of outputs of modules, which nobody else keeps.
        """
        where = None if rows is None else rows_at(rows)
        if isinstance(where, list):
            return None
        value = self.terms[0] if where is None else self.terms[0][where]
        return value if value.is_contiguous() else None

    def patch(self, merged: Tensor, rows: Sequence[int] | None = None) -> None:
        """Replace the value by one of which only some columns are new; the age stays."""
        if rows is None:
            self.terms[0] = merged
        else:
            self._scatter([merged], rows)

    def _rows(self, term: Tensor, rows: Sequence[int] | None) -> Tensor:
        return term if rows is None else term[rows_at(rows)]

    def _scatter(self, terms: Sequence[Tensor], rows: Sequence[int]) -> None:
        for j, term in enumerate(terms):
            if j == len(self.terms):
                self.terms.append(term.new_zeros(len(self.steps), *term.shape[1:]))
            # A new tensor: the old one may be in use elsewhere.
            whole = self.terms[j].clone()
            whole[rows_at(rows)] = term
            self.terms[j] = whole

    @staticmethod
    def _per_row(numbers: Sequence[float], like: Tensor) -> float | Tensor:
        """One number if all rows agree, else [R', 1, ...]."""
        if len(set(numbers)) == 1:
            return numbers[0]
        return (
            torch.tensor(numbers, dtype=torch.float32, device=like.device)
            .to(like.dtype)
            .view(-1, *[1] * (like.ndim - 1))
        )
