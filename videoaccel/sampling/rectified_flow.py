"""Rectified flow: the schedule, the Euler update, and the frames that are given instead of made.

A latent at timestep t is ``x_t = (1 - t/1000) * data + (t/1000) * noise`` and the network's velocity ``data - noise``,
so t = 1000 is pure noise and a step *adds* velocity times step size. One generation is this loop::

    noised = start_noised(mask)
    for t, dt in zip(ts, step_sizes(ts)):
        x, active = begin_step(x, t, mask=mask, noised=noised, noise=fresh)
        x = end_step(x, network(x, t, x_mask=active), dt=dt, active=active)
        noised = active

Nothing is kept between calls: the mask state goes in and comes out. Source: Open-Sora v1.2's sampler ("the release"
below), after "Flow Straight and Fast" (arXiv:2209.03003) and, for the shift, "Scaling Rectified Flow Transformers"
(arXiv:2403.03206, section 5.3.2). ``num_train_timesteps`` is everywhere the timestep of pure noise.

Shapes: B rows (clips), N steps, T latent frames, C channels, H/W latent height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from videoaccel.models.protocols import StepNoise

PerRow: TypeAlias = "int | Sequence[int] | Tensor"  # one number for all rows, or one number per row
Frames: TypeAlias = "Tensor | None"  # a value per frame, [B, T]; None where no frame is given
LATENTS_PER_CHUNK, FRAMES_PER_CHUNK = 5, 17  # the VAE turns 17 frames into 5 latent ones


def timesteps(
    steps: int,
    height: PerRow,
    width: PerRow,
    num_frames: PerRow,
    *,
    base_size: int = 512,
    use_transform: bool = True,
    discrete: bool = False,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    num_train_timesteps: int = 1000,
) -> Tensor:
    """The timesteps of a generation: evenly spaced from 1000 down, then shifted so that larger clips stay noisy longer.

    The shift is u' = r*u / (1 + (r-1)*u) with u = t/1000 and r as in `time_shift`. Rounding may put the first value a
    hair off 1000 (1000.0001 for a 117x312 image in float32, 994.8 in bfloat16): the release's, and kept.

    Args:
        steps: N, at least 1 (with ``discrete`` at most ``num_train_timesteps``).
        height: Pixels; one number, or one per row.
        width: Pixels, likewise.
        num_frames: Pixel frames, likewise.
        base_size: As in `time_shift`.
        use_transform: False leaves the even spacing alone.
        discrete: Round to whole timesteps before the shift.
        dtype: The type of the sizes, as in `time_shift`; the timesteps are always float32.
        scale: A factor on the shift.
        num_train_timesteps: The first timestep.

    Returns:
        ``[N, B]``, float32, strictly falling. On the CPU, so that every device and rank has the same bits.

    Raises:
        ValueError: If ``steps`` is out of range, or for the reasons of `time_shift`.

    >>> timesteps(4, 512, 512, 1)[:, 0].tolist()
    [1000.0, 750.0, 500.0, 250.0]
    """
    if not 1 <= steps <= (most := num_train_timesteps if discrete else math.inf):
        raise ValueError(f"steps must be at least 1{f' and at most {most}' if discrete else ''}; got {steps}")
    shift = time_shift(height, width, num_frames, base_size=base_size, dtype=dtype) * scale
    spaced = [(1.0 - i / steps) * num_train_timesteps for i in range(steps)]
    if discrete:
        spaced = [float(round(t)) for t in spaced]
    t = torch.tensor(spaced, dtype=torch.float32)[:, None].expand(steps, len(shift))
    if use_transform:
        u = t / num_train_timesteps
        t = shift * u / (1 + (shift - 1) * u) * num_train_timesteps
    return t.contiguous()


def time_shift(
    height: PerRow, width: PerRow, num_frames: PerRow, *, base_size: int = 512, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The shift r = sqrt(height * width / base_size^2) * sqrt(F) of clips, ``[B]``: 1 for a square image of that side.

    F is 5 * floor(num_frames / 17), not the true latent length, and 1 where that is 0: for one frame as in the release,
    for 2 to 16 frames because the release divides zero by zero there. Sizes and r are made in ``dtype``; the release
    takes the run's, and in bfloat16 854 is 856. In float16 the area would overflow: it is taken in float32.

    Raises:
        ValueError: If a size is not positive, or the rows of the sizes do not agree.
    """
    sizes = {"height": height, "width": width, "num_frames": num_frames}
    rows = {name: torch.atleast_1d(torch.as_tensor(size, device="cpu")) for name, size in sizes.items()}
    for name, row in rows.items():
        if row.dim() != 1 or not bool((row > 0).all()):
            raise ValueError(f"{name} must be positive: one number, or one per row; got {row.tolist()}")
    if len({len(row) for row in rows.values()} - {1}) > 1:
        raise ValueError(f"sizes must have the same rows; got {[f'{len(row)} {name}' for name, row in rows.items()]}")
    wide = torch.float32 if dtype == torch.float16 else dtype
    h, w, frames = torch.broadcast_tensors(*(row.to(dtype).to(wide) for row in rows.values()))
    latent_frames = torch.floor_divide(frames, FRAMES_PER_CHUNK) * LATENTS_PER_CHUNK
    return torch.sqrt(h * w / base_size**2) * torch.sqrt(latent_frames.clamp(min=1))


def sigmas(ts: Tensor, *, num_train_timesteps: int = 1000) -> Tensor:
    """Noise levels in [0, 1] from timesteps ``[N, B]``: ``[B, N+1]``, the last one 0 (clean)."""
    return torch.cat([ts, torch.zeros_like(ts[:1])]).T.contiguous() / num_train_timesteps


def step_sizes(ts: Tensor, *, num_train_timesteps: int = 1000) -> Tensor:
    """How far each step goes: ``(t_i - t_{i+1}) / 1000``, ``[N, B]``, the last one down to 0."""
    return (ts - torch.cat([ts[1:], torch.zeros_like(ts[:1])])) / num_train_timesteps


def add_noise(x: Tensor, noise: Tensor, timestep: Tensor, *, num_train_timesteps: int = 1000) -> Tensor:
    """Noise clean data ``[B, ...]`` up to a timestep ``[B]``: ``(1 - t/1000) * x + (t/1000) * noise``, in float32."""
    # The noise share is 1 - (1 - u) rather than u: the last bit is then the release's.
    clean = _over(1 - timestep.float() / num_train_timesteps, x)
    return clean * x + (1 - clean) * noise


def update(x: Tensor, velocity: Tensor, *, dt: Tensor) -> Tensor:
    """One Euler step, ``x + velocity * dt``: x and velocity ``[B, ...]``, dt ``[B]``, a row of `step_sizes`.

    dt is float32, so the latent is float32 (or wider) from the first step on, whatever type it started in.
    """
    return x + velocity * _over(dt, x)


def start_noised(mask: Tensor) -> Tensor:
    """The mask state ``[B, T]`` before the first step: a frame generated from scratch (mask 1) is noise already.

    Args:
        mask: ``[B, T]`` in [0, 1]: 1 generates the frame, 0 keeps the given latent, a value between starts to change
            it once the timestep has fallen to ``mask * 1000``.

    Raises:
        ValueError: If the mask is not ``[B, T]`` or leaves [0, 1].
    """
    if mask.dim() != 2:
        raise ValueError(f"the mask must be [rows, latent frames]; got the shape {list(mask.shape)}")
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(f"mask values must lie in [0, 1]; got {mask.min().item():g} to {mask.max().item():g}")
    return mask == 1


def active_frames(mask: Tensor, ts: Tensor, *, num_train_timesteps: int = 1000) -> Tensor:
    """The frames a step denoises, ``mask * 1000 >= t``: the network's x_mask, ``[..., B, T]`` for ts ``[..., B]``.

    At a first timestep of 1000.0001 even mask 1 is not active, as in the release: `timesteps` gives it for one 144p
    frame at 3:8, 1:2, 2:3 or 2:1 in float32. Passing no mask where all is generated avoids the lost step.
    """
    return mask * num_train_timesteps >= ts[..., None]


def begin_step(
    x: Tensor,
    timestep: Tensor,
    *,
    mask: Frames = None,
    noised: Frames = None,
    noise: Tensor | None = None,
    num_train_timesteps: int = 1000,
) -> tuple[Tensor, Frames]:
    """Before the network: give frames that start to change at this step the noise of this timestep.

    Args:
        x: Latent, ``[B, C, T, H, W]``.
        timestep: ``[B]``.
        mask: ``[B, T]``, as in `start_noised`; None when every frame is generated.
        noised: Frames that are noise already, ``[B, T]`` bool: `start_noised`, then the last step's ``active``.
        noise: A fresh normal draw of x's shape. The release draws one every step that has a mask, used or not.
        num_train_timesteps: The timestep of pure noise.

    Returns:
        The network's input, and the active frames ``[B, T]``: its ``x_mask`` (None without a mask).

    Raises:
        ValueError: If a mask comes without ``noised`` or ``noise``, or does not fit x.
    """
    if mask is None:
        return x, None
    if noised is None or noise is None:
        raise ValueError("a mask needs noised= (start_noised(mask), then the last step's active) and noise= too")
    if mask.shape != (x.shape[0], x.shape[2]):
        raise ValueError(f"the mask is {list(mask.shape)}; {[x.shape[0], x.shape[2]]} fits a latent {list(x.shape)}")
    active = active_frames(mask, timestep, num_train_timesteps=num_train_timesteps)
    fresh = add_noise(x, noise, timestep, num_train_timesteps=num_train_timesteps)
    newly = active & ~noised
    return torch.where(newly[:, None, :, None, None], fresh, x), active


def end_step(x: Tensor, velocity: Tensor, *, dt: Tensor, active: Frames = None) -> Tensor:
    """After the network: `update` what `begin_step` gave, except inactive frames: they stay, whatever the velocity."""
    return keep_given(update(x, velocity, dt=dt), x, active)


def keep_given(moved: Tensor, x: Tensor, active: Frames) -> Tensor:
    """A step's result ``moved`` in active frames ``[B, T]``, the latent ``x`` before it in the others."""
    return moved if active is None else torch.where(active[:, None, :, None, None], moved, x)


def euler(ts: Tensor, *, num_train_timesteps: int = 1000) -> Callable[[int, Tensor, Tensor], Tensor]:
    """The `update` of every step of the timesteps ``[N, B]``, as ``(step, x, velocity) -> x``."""
    dts = step_sizes(ts, num_train_timesteps=num_train_timesteps)
    return lambda i, x, velocity: update(x, velocity, dt=dts[i])


def _over(per_row: Tensor, x: Tensor) -> Tensor:
    """``[B]`` made to broadcast over ``[B, ...]``."""
    return per_row.reshape(-1, *[1] * (x.dim() - 1))


class RectifiedFlowScheduler(SchedulerMixin, ConfigMixin):
    """The functions above with the names and calling conventions of a diffusers scheduler.

    `timesteps` is ``[N, B]``, falling, and `sigmas` ``[B, N+1]``, ending in 0; both are empty before `set_timesteps`.

    Raises:
        ValueError: If a field has a value that cannot work, or a config file has a field that is none of these.
    """

    order, init_noise_sigma, keeps_variance = 1, 1.0, False

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,  # the timestep of pure noise
        base_size: int = 512,  # side, in pixels, of the square image that is not shifted
        use_timestep_transform: bool = True,  # shift the timesteps with size and length
        use_discrete_timesteps: bool = False,  # round them to whole numbers before
        transform_scale: float = 1.0,  # a further factor on the shift
    ) -> None:
        for name, value in self.config.items():
            flag = name.startswith("use_")
            works = isinstance(value, bool) if flag else type(value) in (int, float) and value > 0
            if not (works or name.startswith("_")):
                raise ValueError(f"{name} must be {'true or false' if flag else 'a positive number'}; got {value!r}")
        self.timesteps, self.sigmas = torch.empty(0, 1), torch.empty(1, 0)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Diffusers' method, except that an unknown field is an error where diffusers would only log it."""
        known = cls._get_init_keys(cls) - {"self"}
        given = [*(config if isinstance(config, dict) else ()), *(() if return_unused_kwargs else kwargs)]
        if unknown := [name for name in given if name not in known and not name.startswith("_")]:
            raise ValueError(f"the scheduler has no field {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: torch.device | str | None = None,
        *,
        height: PerRow,
        width: PerRow,
        num_frames: PerRow,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Fill `timesteps` and `sigmas` and put them on ``device``; arguments and errors as in the function."""
        c = self.config
        options = {"base_size": c.base_size, "scale": c.transform_scale, "num_train_timesteps": c.num_train_timesteps}
        flags = {"use_transform": c.use_timestep_transform, "discrete": c.use_discrete_timesteps}
        ts = timesteps(num_inference_steps, height, width, num_frames, dtype=dtype, **options, **flags)
        self.timesteps = ts.to(device)
        self.sigmas = sigmas(ts, num_train_timesteps=c.num_train_timesteps).to(device)

    def stepper(self, noise: StepNoise | None = None) -> Callable[[int, Tensor, Tensor], Tensor]:
        """The function `euler` of the present timesteps; it draws nothing."""
        return euler(self.timesteps, num_train_timesteps=self.config.num_train_timesteps)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Nothing to scale."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The function `add_noise`."""
        return add_noise(original_samples, noise, timesteps, num_train_timesteps=self.config.num_train_timesteps)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *, active: Frames = None, return_dict: bool = True
    ) -> Any:
        """The function `end_step`, with the new latent as ``prev_sample`` of a ``SchedulerOutput`` (or in a tuple).

        An ``int`` timestep is the step's index; a float or a tensor (``[]`` or ``[B]``) is looked up in `timesteps`.

        Raises:
            ValueError: If the timestep is none of the schedule.
        """
        i = timestep if isinstance(timestep, int) else self._index(torch.as_tensor(timestep))
        if not 0 <= i < len(self.timesteps):
            raise ValueError(f"{timestep} is none of the {len(self.timesteps)} steps; set_timesteps makes the schedule")
        dt = step_sizes(self.timesteps, num_train_timesteps=self.config.num_train_timesteps)[i].to(sample.device)
        moved = end_step(sample, model_output, dt=dt, active=active)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def _index(self, timestep: Tensor) -> int:
        """The step that has these timesteps, -1 for none."""
        found = (self.timesteps == timestep.to(self.timesteps)).all(dim=1).nonzero()
        return int(found[0]) if len(found) else -1
