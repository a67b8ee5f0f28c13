"""The generation loop, and the network as the loop and a session see it.

Shape legend: B batch (samples), N steps, Z latent channels, T latent frames, h, w latent rows and columns.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from videoaccel.models.protocols import Context, Transformer
from videoaccel.models.rows import rows_at
from videoaccel.models.seam import Run
from videoaccel.sampling.guidance import combine
from videoaccel.sampling.rectified_flow import begin_step, euler, keep_given, start_noised
from videoaccel.session.job import Call, Velocities
from videoaccel.session.policy import Session

StepCallback = Callable[[int, Tensor, Tensor], Tensor]
"""Called with (step, timesteps [B], latent) after each step; returns the latent to go on with, the same tensor if
it has not changed it."""

Update = Callable[[int, Tensor, Tensor], Tensor]
"""A schedule's step: (step, latent, what the network predicts there, guided) -> the next latent."""

Through = Callable[[Tensor, Tensor, Tensor | None, Context], Tensor]
"""A network call: (x, timestep, x_mask, context) -> output."""

Join = Callable[[Velocities], Velocities]
"""Velocities of the branches on this rank -> those of all branches."""


def as_they_are(velocities: Velocities) -> Velocities:
    """All branches are here."""
    return velocities


class Network:
    """The transformer with all that stays the same through a generation filled in.

    Args:
        model: The transformer.
        context: Its context for the rows of all branches, one branch after the other.
        branches: Names of the guidance branches in ``context``.
        run: The seam.
        through: Calls the network in our place: (x, timestep, x_mask, context) -> its output.
    """

    def __init__(
        self,
        model: Transformer,
        context: Context,
        *,
        branches: Sequence[str],
        run: Run,
        through: Through | None = None,
    ) -> None:
        self.model, self.context, self.branches, self.run = model, context, tuple(branches), run
        self.through = through  # never a method of our own: such a circle would keep a session until Python looks
        self._rows: tuple[list[int], Context] | None = None

    def at(self, x: Tensor, timestep: Tensor, x_mask: Tensor | None) -> Call:
        """The call of one step: latent [B, Z, T, h, w], timestep [B], x_mask [B, T]."""
        batch = x.shape[0]

        def call(rows: Sequence[int] | None = None, branches: Sequence[str] | None = None) -> Velocities:
            names = self.branches if branches is None else tuple(branches)
            chosen = list(range(batch)) if rows is None else list(rows)
            index = [self.branches.index(name) * batch + row for name in names for row in chosen]
            whole = index == list(range(batch * len(self.branches)))
            at = slice(None) if rows is None else rows_at(chosen)
            again = [None if part is None else torch.cat([part[at]] * len(names)) for part in (x, timestep, x_mask)]
            assert again[0] is not None
            assert again[1] is not None
            through = self.through or self._direct
            out = through(again[0], again[1], again[2], self.context if whole else self._context(index))
            velocities = out[:, : x.shape[1]].chunk(len(names))
            return dict(zip(names, velocities, strict=True))

        return call

    def _direct(self, x: Tensor, timestep: Tensor, x_mask: Tensor | None, context: Context) -> Tensor:
        return self.model(x, timestep, x_mask=x_mask, context=context, run=self.run)

    def _context(self, index: list[int]) -> Context:
        """The context of some rows; the last is kept, and is the same as long as the rows are."""
        if self._rows is None or self._rows[0] != index:
            self._rows = index, self.context.rows(index)
        return self._rows[1]


def denoise(
    x: Tensor,
    timesteps: Tensor,
    *,
    network: Network,
    session: Session,
    guidance_scale: float,
    update: Update | None = None,
    join: Join = as_they_are,
    mask: Tensor | None = None,
    draw: Callable[[], Tensor] | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Turn noise into a latent.

    Args:
        x: Initial latent [B, Z, T, h, w], with references written in.
        timesteps: [N, B], falling.
        network: The network.
        session: Answers for every step whether and how it runs.
        guidance_scale: Scale of classifier-free guidance.
        update: The schedule's step; None is the Euler step of a rectified flow.
        join: Brings the guidance branches together, where they run on different ranks.
        mask: [B, T] per frame: 1 generates, 0 keeps, between: changes once t <= mask * 1000 (of a rectified
            flow). None generates all.
        draw: Fresh normal numbers of x's shape, drawn at every step when there is a mask.
        callback: Called after every step.

    Returns:
        float32 [B, Z, T, h, w].
    """
    noised = None if mask is None else start_noised(mask)
    update = euler(timesteps) if update is None else update
    for i, t in enumerate(timesteps):
        noise = draw() if mask is not None and draw is not None else None
        x, active = begin_step(x, t, mask=mask, noised=noised, noise=noise)
        velocity = combine(join(session.predict(i, x, network.at(x, t, active))), guidance_scale)
        x, noised = keep_given(update(i, x, velocity), x, active), active
        if callback is not None:
            before, x = x, callback(i, t, x)
            if x is not before:
                session.disturb()
    return x
