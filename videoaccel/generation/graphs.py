"""Pieces of a network run as they were recorded: a graph for every signature of their arguments.

Small networks wait for the host, which launches a thousand kernels for every call; a recorded graph is one launch. What
is recorded is what would have run, on tensors of the same layout, and gives the same bits. Whatever cannot be recorded
runs as it would have, and why is kept and told.

How a piece is recorded is another's business: :class:`videoaccel.generation.cuda_graph.CudaRecorder` makes CUDA graphs.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from videoaccel.common.user_warning import warn_user
from videoaccel.generation.places import Places, signature

Asked = Literal["auto", "on", "off"]

NO_CUDA = "they need a CUDA device"
"""Why there are none elsewhere."""

MOST = 16
"""Graphs that are kept; a call's signature changes with clip size, batch and length of text."""

MOST_REFUSALS = 256
"""Signatures that are remembered as not worth a graph."""

GAIN = 0.95
"""Share of the plain time that a graph may take at most, if whether it is worth it is measured."""

Work = Callable[[Any, Any], Tensor]
"""What may be recorded: (moving arguments, fixed arguments) -> result."""


class Recording(Protocol):
    """A recorded piece of work."""

    out: Tensor
    """Its result; the next replay overwrites it."""

    def replay(self) -> None:
        """Do the work again, on what lies in the places now."""
        ...

    def release(self) -> None:
        """Give its memory back."""
        ...


class Recorder(Protocol):
    """Makes recordings.

    Attributes:
        device: Where what it records runs.
    """

    device: torch.device

    def record(self, work: Callable[[], Tensor]) -> Recording:
        """Run a piece of work to get it ready, and record it.

        Raises:
            Exception: It cannot be recorded.
        """
        ...

    def milliseconds(self, work: Callable[[], Any]) -> float:
        """How long a piece of work takes, the host's part included."""
        ...

    def why_no_room(self, work: int) -> str | None:
        """Why memory does not allow a graph of so much ``work``; None if it does."""
        ...

    def forget(self) -> None:
        """All recordings are released: their common memory may go."""
        ...


class Graphs:
    """The graphs of one network.

    Args:
        recorder: Records.
        asked: ``on`` records whatever can be; ``auto`` what is small enough, fits, and is measured to gain.
        limit: Greatest ``work`` of a call for which ``auto`` tries.
        most: Graphs that are kept at once.

    Attributes:
        replayed: Calls that ran as recorded since :meth:`begin`.
        recorded: Graphs made since then.
        dropped: Graphs given up since then, for newer ones or since weights changed.
        plain: Calls that ran as they are since then, by reason.
    """

    def __init__(self, recorder: Recorder, *, asked: Asked = "auto", limit: int = 2**62, most: int = MOST) -> None:
        self.recorder, self.asked, self.limit, self.most = recorder, asked, limit, most
        self._kept: dict[Hashable, tuple[Places, Recording]] = {}
        self._refused: dict[Hashable, str] = {}
        self._stamp: Hashable = None
        self._why_not: str | None = None
        self._broken: str | None = None
        self.recorded = self.replayed = self.dropped = 0
        self.plain: Counter[str] = Counter()

    def begin(self) -> None:
        """A new generation: counts start anew."""
        self.recorded = self.replayed = self.dropped = 0
        self.plain.clear()

    def check(self, model: nn.Module, device: torch.device) -> None:
        """Drop all graphs if a network's weights lie elsewhere than when they were made, or its modules have changed.

        Values that were changed in place are what a graph reads.

        Args:
            model: The network.
            device: Where it runs now.
        """
        now = stamp(model)
        if now != self._stamp:
            self.clear()
            self._stamp = now
        elsewhere = device != self.recorder.device
        self._why_not = f"it was tuned for {self.recorder.device}" if elsewhere else why_not(model)

    def clear(self) -> None:
        """Drop all graphs and all that is known of signatures."""
        self.dropped += len(self._kept)
        for _, recording in self._kept.values():
            recording.release()
        self._kept.clear()
        self._refused.clear()
        self.recorder.forget()

    @property
    def kept(self) -> int:
        """Number of graphs that there are."""
        return len(self._kept)

    def __call__(self, key: Hashable, work: Work, moving: Any, fixed: Any = (), *, size: int = 0) -> Tensor:
        """What ``work`` makes of its arguments, by a graph if there is one or one may be made.

        Args:
            key: What tells this piece of work from others.
            work: Has no effect but its result, and asks nothing of the device.
            moving: Arguments that are others in every call.
            fixed: Arguments that stay for many calls.
            size: How much work it is, in the unit of ``limit``.

        Returns:
            A tensor of the caller's own.
        """
        found, reason = self._find(key, work, moving, fixed, size)
        if found is None:
            self.plain[reason] += 1
            return work(moving, fixed)
        places, recording = found
        places.take(moving, fixed)
        recording.replay()
        self.replayed += 1
        return recording.out.clone()

    def prepare(self, key: Hashable, work: Work, moving: Any, fixed: Any = (), *, size: int = 0) -> None:
        """Record what a call with such arguments would replay, if it can be; see :meth:`__call__`."""
        self._find(key, work, moving, fixed, size)

    def told(self) -> dict[str, Any]:
        """What ran since :meth:`begin`."""
        counts = {"recorded": self.recorded, "replayed": self.replayed, "dropped": self.dropped}
        return {name: n for name, n in counts.items() if n} | ({"plain": dict(self.plain)} if self.plain else {})

    def _find(
        self, key: Hashable, work: Work, moving: Any, fixed: Any, size: int
    ) -> tuple[tuple[Places, Recording] | None, str]:
        """A graph, or why there is none."""
        reason = self._broken or self._why_not or ("gradients are asked for" if torch.is_grad_enabled() else None)
        if reason:
            return None, reason
        try:
            name = (key, signature(moving), signature(fixed), switches())
        except TypeError as error:
            return None, str(error)
        if name in self._refused:
            return None, self._refused[name]
        if name in self._kept:
            self._kept[name] = self._kept.pop(name)  # the last to be dropped
            return self._kept[name], ""
        found, reason = self._made(work, moving, fixed, size)
        if found is None:
            while len(self._refused) >= MOST_REFUSALS:
                del self._refused[next(iter(self._refused))]
            self._refused[name] = reason
            return None, reason
        while len(self._kept) >= self.most:
            self._kept.pop(next(iter(self._kept)))[1].release()
            self.dropped += 1
        self._kept[name] = found
        self.recorded += 1
        return found, ""

    def _made(self, work: Work, moving: Any, fixed: Any, size: int) -> tuple[tuple[Places, Recording] | None, str]:
        if self.asked == "auto" and size > self.limit:
            return None, "a call is large enough to keep the device busy"
        if self.asked == "auto" and (reason := self.recorder.why_no_room(size)):
            return None, reason
        try:
            places = Places(moving, fixed)
            recording = self.recorder.record(lambda: work(places.moving, places.fixed))
        except Exception as failure:  # whatever it is, the call itself runs without
            self._broken = f"recording failed: {type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
            warn_user(f"CUDA graphs are not used: {self._broken}")
            return None, self._broken
        if self.asked == "auto":
            plain = self.recorder.milliseconds(lambda: work(places.moving, places.fixed))
            graph = self.recorder.milliseconds(recording.replay)
            if graph > GAIN * plain:
                recording.release()
                return None, f"a graph gains too little: {graph:.1f} ms in place of {plain:.1f}"
        return (places, recording), ""


def why_not_recorded(recorder: Recorder) -> str | None:
    """Why nothing can be recorded here, from a product of small matrices; None if it can, and comes out the same."""
    x = torch.linspace(-1, 1, 256, device=recorder.device).view(16, 16)
    try:
        recording = recorder.record(lambda: x @ x)
        wanted = (2 * x) @ (2 * x)
        x.mul_(2)
        recording.replay()
        same = torch.equal(recording.out, wanted)
        recording.release()
        recorder.forget()
    except Exception as failure:
        return f"recording fails: {type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    return None if same else "what is replayed is not what was recorded"


def switches() -> Hashable:
    """Settings of PyTorch by which kernels are chosen."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    attention = (
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()
    )  # fmt: skip
    rounding = cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    modes = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cuda")
    return modes, attention, rounding, torch.are_deterministic_algorithms_enabled()


def stamp(model: nn.Module) -> Hashable:
    """What a graph of a network depends on besides its arguments: classes of its modules, where its weights lie."""
    kinds = tuple(type(module) for module in model.modules())
    weights = tuple((x.data_ptr(), x.dtype, x.shape) for x in (*model.parameters(), *model.buffers()))
    return kinds, weights


def why_not(model: nn.Module) -> str | None:
    """Why a network's calls must not be recorded; None if they may."""
    if getattr(model, "_hf_hook", None) is not None or getattr(model, "_diffusers_hook", None) is not None:
        return "weights are moved to the device and away"
    if getattr(model, "_compiled_call_impl", None) is not None:
        return "the network is compiled as a whole"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "modules have hooks, which a graph would not call"
    return "the network is in training mode" if model.training else None
