"""What all trainings here share: optimizers, the schedule, one loop; on a GPU a step is one recorded CUDA graph.

The networks are so small that a GPU would spend its time waiting for the host. So a step (forward and backward pass,
clipping, optimizers, averaging) asks the host nothing and runs as one graph, equal matrices are orthogonalised in one
stack, and batches are drawn on the device. On a CPU the same code runs as it stands.

Every step draws from a seed of its own, so that an interrupted training ends where an uninterrupted one does. On a GPU
that holds up to the order in which its kernels add.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.muon import StackedMuon

EMA_HORIZON = 1000
SAVE_SECONDS, EXPORT_SECONDS = 30, 60
WARM_UP = 3  # runs of a step before it is recorded: kernels are compiled and chosen, states of optimizers made
PACE_SECONDS = 8.0  # what a pace is measured over
MARGIN = 0.96  # of the steps that a pace allows

Draw = Callable[[torch.Generator], tuple[Tensor, ...]]
Named = list[tuple[str, nn.Parameter]]


class Schedule:
    """The learning rate: up over ``warmup`` steps, constant, linear down to ``floor`` over the last ``cooldown``.

    With ``seconds`` the number of steps is not known at first. Once ``COOL`` of the time is left, it is fixed: as many
    as the pace allows, all of them cooling down. ``--steps`` and ``--cooldown`` with the numbers in the log repeat it.
    """

    COOL = 0.45

    def __init__(self, args: argparse.Namespace, floor: float) -> None:
        self.args, self.floor = args, floor
        self.steps, self.cooldown = (args.steps, args.cooldown) if args.seconds is None else (10**9, 1)
        self.fixed = args.seconds is None
        self.began, self.marks = time.monotonic(), list[tuple[float, int]]()

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        left = (self.steps - step) / max(self.cooldown, 1)
        return float(self.args.lr * min(1.0, (step + 1) / self.args.warmup) * max(self.floor, min(1.0, left)))

    def elapsed(self) -> float:
        """Seconds since the training began, data and compilers included."""
        return time.monotonic() - self.began

    def over(self, step: int) -> bool:
        """Tell whether steps or time are spent."""
        limit = 60 * self.args.minutes if self.args.seconds is None else self.args.seconds
        return step >= self.steps or self.elapsed() >= limit

    def mark(self, step: int) -> bool:
        """Note the pace; tell whether the number of steps has just been fixed."""
        self.marks.append((self.elapsed(), step))
        if self.fixed:
            return False
        now, first = self.marks[-1][0], self.marks[0][0]
        left = self.args.seconds - now
        if left > self.COOL * (self.args.seconds - first):
            return False
        then, before = next(mark for mark in reversed(self.marks) if mark[0] <= now - PACE_SECONDS or mark[0] == first)
        self.cooldown = max(1, int(MARGIN * left * (step - before) / max(now - then, 1e-3)))
        self.steps, self.fixed = step + self.cooldown, True
        return True


def reasons(error: BaseException | None) -> str:
    """What went wrong, and what it came from: the end of a broken recording raises an error of its own first."""
    chain = []
    while error is not None:
        chain.append(f"{type(error).__name__}: {str(error)[:2000]}")
        error = error.__cause__ or error.__context__
    return "\nwhile handling ".join(chain)


class Compiled:
    """A network behind ``torch.compile`` where that is asked for; :meth:`give_up` goes back to the network itself."""

    def __init__(self, network: nn.Module, *, compile: bool) -> None:
        self.network = network
        self.compiled: Callable[..., Any] | None = torch.compile(network, dynamic=False) if compile else None

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The network's output."""
        return (self.network if self.compiled is None else self.compiled)(*args, **options)

    def give_up(self, error: Exception) -> bool:
        """Leave the compiler out from now on, aloud; False if it is not in use."""
        if self.compiled is None:
            return False
        print(f"torch.compile failed, going on without: {reasons(error)}", flush=True)
        self.compiled = None
        return True


class Trainer:
    """Parameters, their optimizers (Muon on matrices, AdamW on the rest), their average, and one step."""

    def __init__(
        self,
        named: Named,
        is_matrix: Callable[[str, Tensor], bool],
        loss: Callable[..., Tensor],
        args: argparse.Namespace,
        *,
        floor: float = 0.02,
        forward: Compiled | None = None,
    ) -> None:
        self.args, self.loss, self.forward = args, loss, forward
        self.names = [name for name, _ in named]
        self.parameters = [p for _, p in named]
        device = self.parameters[0].device
        self.average = [p.detach().clone() for p in self.parameters]
        self.rate, self.lag, self.total, self.lost = (torch.zeros((), device=device) for _ in range(4))
        matrices = [p for name, p in named if is_matrix(name, p)]
        rest = [p for name, p in named if not is_matrix(name, p)]
        adamw = torch.optim.AdamW(
            rest, lr=self.rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True, capturable=device.type == "cuda"
        )
        self.optimizers: list[Any] = [adamw]
        if matrices:
            self.optimizers.append(StackedMuon(matrices, lr=self.rate, weight_decay=0.01))
        self.schedule = Schedule(args, floor)
        self.step, self.seconds = 0, 0.0

    def gather(self) -> None:
        """Bring gradients to ``parameters``, where others than these ran."""

    def publish(self) -> None:
        """Bring moved ``parameters`` to where they run."""

    def clear(self) -> None:
        """Forget gradients, after a step that broke off."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def advance(self, *inputs: Tensor) -> None:
        """One step, without a look from the host; one whose gradient is not finite is left out."""
        loss = self.loss(*inputs)
        loss.backward()
        self.gather()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        lost = (~torch.isfinite(norm)).float()
        for optimizer in self.optimizers:
            optimizer.found_inf = lost
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            ahead = torch._foreach_sub([p.detach() for p in self.parameters], self.average)
            torch._foreach_mul_(ahead, self.lag)
            torch._foreach_add_(self.average, ahead)
            self.total += loss.detach()
            self.lost += lost
        self.publish()

    def compiler_left_out(self, steps: int) -> bool:
        """Look back on the last ``steps``: if all were lost, leave the compiler out and tell that, if it was in use.

        Compilers have made networks whose every output is NaN of networks that are well.

        Raises:
            FloatingPointError: All were lost, and it was not the compiler.
        """
        lost = int(self.lost)
        self.lost.zero_()
        if lost < steps:
            return False
        error = FloatingPointError(f"none of the last {steps} steps had a finite gradient, so nothing is learnt")
        if self.forward is None or not self.forward.give_up(error):
            raise error
        return True

    def set_step(self) -> None:
        """Hand the device what changes from step to step."""
        self.rate.fill_(self.schedule.rate(self.step))
        self.lag.fill_(1 - min(1 - 1 / EMA_HORIZON, (1 + self.step) / (10 + self.step)))

    def tensors(self) -> dict[object, Tensor]:
        """All tensors that a step changes, by something that stays the same."""
        found: dict[object, Tensor] = {"total": self.total, "lost": self.lost}
        for index, (p, mean) in enumerate(zip(self.parameters, self.average, strict=True)):
            found |= {("p", index): p.detach(), ("mean", index): mean}
            for optimizer in self.optimizers:
                found |= {(index, k): v for k, v in optimizer.state.get(p, {}).items() if isinstance(v, Tensor)}
        return found

    def restore(self, kept: dict[object, Tensor]) -> None:
        """Put copies of :meth:`tensors` back in place; states made since then are zero again."""
        with torch.no_grad():
            for key, tensor in self.tensors().items():
                tensor.copy_(kept[key]) if key in kept else tensor.zero_()
        self.publish()

    def save(self) -> None:
        """Write ``checkpoint.pt`` so that an interruption leaves the old one or the new one, never half of one."""
        path = self.args.out / "checkpoint.pt"
        state = {"weights": [p.detach() for p in self.parameters], "average": self.average, "step": self.step}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "seconds": self.seconds}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        with suppress(FileNotFoundError):
            device = self.parameters[0].device
            saved = torch.load(self.args.out / "checkpoint.pt", weights_only=True, map_location=device)
            with torch.no_grad():
                torch._foreach_copy_([p.detach() for p in self.parameters], saved["weights"])
                torch._foreach_copy_(self.average, saved["average"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
                for group in optimizer.param_groups:
                    group["lr"] = self.rate
            self.step, self.seconds = saved["step"], saved["seconds"]
            self.publish()

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by name, copies on the CPU."""
        return {name: p.detach().to("cpu", copy=True) for name, p in zip(self.names, self.average, strict=True)}


class Recorder:
    """Runs a trainer's steps, on a GPU as CUDA graphs, one for each shape of the inputs."""

    def __init__(self, trainer: Trainer, *, record: bool) -> None:
        self.trainer, self.record = trainer, record
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}

    def __call__(self, inputs: tuple[Tensor, ...]) -> None:
        """One step; before the first of a shape, :meth:`prepare`."""
        self.prepare(inputs)
        key = tuple(x.shape for x in inputs)
        if key in self.graphs:
            graph, places = self.graphs[key]
            for place, x in zip(places, inputs, strict=True):
                place.copy_(x)
            graph.replay()
        else:
            self.trainer.advance(*inputs)

    def prepare(self, inputs: tuple[Tensor, ...]) -> None:
        """Rehearse a step of a new shape and record it, if recording is asked for."""
        key = tuple(x.shape for x in inputs)
        if self.record and key not in self.graphs:
            start = time.monotonic()
            # One tensor given twice would be compiled for as one, and two in its place compiled anew while recording.
            places = [x.clone() for x in inputs]
            self.rehearse(tuple(places))
            self.graph(key, places)
            print(f"made ready for {[list(s) for s in key]} in {time.monotonic() - start:.1f} s", flush=True)

    def rehearse(self, inputs: tuple[Tensor, ...]) -> None:
        """Run a step a few times on a side stream and take it back."""
        kept = {key: tensor.clone() for key, tensor in self.trainer.tensors().items()}
        try:
            self.several(inputs)
        except Exception as error:
            if self.trainer.forward is None or not self.trainer.forward.give_up(error):
                raise
            self.trainer.clear()
            self.several(inputs)
        self.trainer.restore(kept)

    def several(self, inputs: tuple[Tensor, ...]) -> None:
        """The runs of a rehearsal."""
        if inputs[0].device.type != "cuda":
            self.trainer.advance(*inputs)
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.trainer.advance(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def graph(self, key: tuple[torch.Size, ...], places: list[Tensor]) -> None:
        """Record a step that reads ``places``; where that fails, say so and record no more."""
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.trainer.advance(*places)
        except Exception as error:
            print(f"recording a CUDA graph failed, going on without: {reasons(error)}", flush=True)
            self.record = False
            self.trainer.clear()
            return
        self.graphs[key] = graph, places


def write_log(args: argparse.Namespace, record: dict[str, object]) -> None:
    """Append a line to ``log.jsonl``."""
    with (args.out / "log.jsonl").open("a") as log:
        log.write(json.dumps(record) + "\n")


def fit(
    trainer: Trainer,
    draw: Draw,
    export: Callable[[dict[str, Tensor]], None],
    args: argparse.Namespace,
    *,
    rehearsals: tuple[tuple[Tensor, ...], ...] = (),
    load: Callable[[], None] | None = None,
) -> None:
    """Train until steps or time are spent; log every ``log_steps``, checkpoint every half minute, export now and then.

    Args:
        trainer: What is trained.
        draw: The inputs of a step, from its generator, which is on the training's device.
        export: Writes averaged weights out.
        args: The options of :func:`add_options`.
        rehearsals: Made-up inputs of each shape to get ready with, before ``load``.
        load: Loads the data, or waits for them.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    trainer.resume()
    recorder = Recorder(trainer, record=args.record and args.device != "cpu")
    if recorder.record:
        torch.set_float32_matmul_precision("high")
        trainer.set_step()
        for inputs in rehearsals:
            recorder.prepare(inputs)
    if load is not None:
        load()
    generator, schedule = torch.Generator(args.device), trainer.schedule
    start, before, counted = time.monotonic(), trainer.seconds, 0
    saved = exported = start
    while not schedule.over(trainer.step):
        generator.manual_seed((args.seed << 32) + trainer.step)
        trainer.set_step()
        recorder(draw(generator))
        trainer.step, counted = trainer.step + 1, counted + 1
        if trainer.step % args.log_steps:
            continue
        record = {"step": trainer.step, "loss": round(float(trainer.total) / counted, 5), "lr": float(trainer.rate)}
        trainer.total.zero_()
        if trainer.compiler_left_out(counted):
            recorder.graphs.clear()
        now, counted = time.monotonic(), 0
        trainer.seconds = before + now - start
        write_log(args, record | {"batch": args.batch, "hours": round(trainer.seconds / 3600, 4)})
        if schedule.mark(trainer.step):
            write_log(args, {"at_step": trainer.step, "steps": schedule.steps, "cooldown": schedule.cooldown})
        if now - saved > SAVE_SECONDS:
            trainer.save()
            saved = now
        if now - exported > EXPORT_SECONDS:
            export(trainer.averaged())
            exported = now
    trainer.seconds = before + time.monotonic() - start
    trainer.save()
    export(trainer.averaged())
    write_log(args, {"done": trainer.step, "of": schedule.steps, "seconds": round(trainer.seconds, 1)})


def add_options(parser: argparse.ArgumentParser, **defaults: float) -> None:
    """The options that every training has; ``defaults`` are steps, batch, lr, warmup and cooldown."""
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop, as if interrupted")
    parser.add_argument("--seconds", type=float, default=None, help="fix the number of steps by this much time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument(
        "--record", action=argparse.BooleanOptionalAction, default=True, help="steps as CUDA graphs, on a GPU"
    )
    parser.add_argument("--log-steps", type=int, default=50)
    parser.add_argument("--shards", type=int, default=None, help="wait until there are so many shards of data")
    parser.add_argument("--wait", type=float, default=1e9, help="for so many seconds; then those there are will do")


def wait_for_shards(folder: Path, args: argparse.Namespace) -> None:
    """Return once a folder holds ``args.shards`` shards, which another program may be writing; at once for None.

    After ``args.wait`` seconds whatever there is will do, as long as there is any.
    """
    until = time.monotonic() + args.wait
    while args.shards is not None and (count := len(list(folder.glob("*.safetensors")))) < args.shards:
        if count and time.monotonic() >= until:
            print(f"{folder}: begins with {count} of {args.shards} shards", flush=True)
            return
        time.sleep(0.5)
