"""Whole generations by the ranks of a pool; importable by their processes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.generation.image_pipelines import ours
from tests.generation.stand_in_graphs import stand_in
from tests.models.networks import tiny_stdit
from tests.parallel.work import mesh_of
from tests.policies.test_all import prior
from tests.tiny_pipeline import tiny_pipeline
from videoaccel.common.devices import cpu_threads
from videoaccel.generation.pipeline import VideoPipeline
from videoaccel.generation.references import References
from videoaccel.parallel.deal import dealt
from videoaccel.parallel.mesh import Mesh
from videoaccel.planning.prior import Prior, setting_of
from videoaccel.sampling.noise import SampleNoise
from videoaccel.session.policy import Session
from videoaccel.session.registry import make_policy
from videoaccel.text.encoder import PromptStates

ASKED: dict[str, Any] = {"height": 28, "width": 36, "num_frames": 9, "num_inference_steps": 4, "seed": 3}


def pipeline(degrees: tuple[int, int, int] | None) -> VideoPipeline:
    """The tiny pipeline; of two pairs of blocks, so that a cached one has another behind it."""
    pipe = tiny_pipeline()
    pipe.register_modules(transformer=tiny_stdit(depth=2, model_max_length=40, pred_sigma=False))
    return pipe.parallelize(Mesh() if degrees is None else mesh_of(*degrees))


def states(samples: int) -> PromptStates:
    """Random text of unequal lengths."""
    generator = torch.Generator().manual_seed(11)
    mask = (torch.arange(40) < torch.arange(5, 5 + 3 * samples, 3)[:, None]).long()
    return PromptStates(torch.randn(samples, 1, 40, 16, generator=generator), mask)


@torch.inference_mode()
def made(
    degrees: tuple[int, int, int] | None,
    *,
    method: str | None = None,
    fields: dict[str, Any] | None = None,
    given: bool = False,
    samples: int = 1,
    latents: bool = True,
    replayed: bool = False,
    **asked: Any,
) -> tuple[Any, list[str], list[dict[str, str]]]:
    """Latents (or frames), the decisions' digests, and all actions."""
    pipe, sessions = pipeline(degrees), []
    pipe.graphs = stand_in() if replayed else None
    options: dict[str, Any] = {**ASKED, **asked}
    if method is not None:
        options["policy"] = make_policy(method, **(fields or {}))
        options["prior"] = tables(pipe, options)
    if given:
        generator = torch.Generator().manual_seed(2)
        size = (options["height"], options["width"])
        clips = tuple(torch.rand(3, 1, *size, generator=generator) * 2 - 1 for _ in range(2))
        options["references"] = References(clips, "0,0,0,0,1,0;0,1,0,-1,1,0.4")
    request = pipe.request(prompt_states=[states(samples)] * options.get("loops", 1), **options)
    if latents:
        maker = pipe._maker(request, None)
        out = maker.latents(request.references)
        sessions = maker.sessions
    else:
        out = torch.cat(list(pipe.stream(request, sessions=sessions)), dim=2)
    return out, [session.digest() for session in sessions], [actions(session) for session in sessions]


def actions(session: Session) -> dict[str, str]:
    """By step and place."""
    return {f"{i} {place}": str(action) for i, step in enumerate(session.trace) for place, action in step.items()}


def tables(pipe: VideoPipeline, options: dict[str, Any]) -> Prior:
    """A made-up prior for every method, of the pipeline's own setting."""
    steps = options["num_inference_steps"]
    size = (options["height"], options["width"])
    setting = setting_of(
        pipe.transformer, pipe.scheduler, steps=steps, size=size, frames=options["num_frames"], guidance=4.0
    )
    found = {**prior("stdit", steps), **soda_tables(steps, 12)}
    return Prior(setting, found, dict.fromkeys(found, 1), {})


def soda_tables(steps: int, sites: int) -> dict[str, torch.Tensor]:
    """Errors that grow with age and shrink with the share that is computed."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(steps, sites, 1, generator=generator)
    ages = torch.arange(1, 6) / 5
    cache = base * ages
    return {
        "soda.cache": cache,
        "soda.forecast": cache * 1.1,
        "soda.prune": cache[:, :, None] * torch.tensor([0.7, 0.5, 0.2])[:, None],
        "soda.velocity": torch.rand(steps, 4, 1, generator=generator) * torch.arange(1, 9),
        "influence.site": torch.ones(steps, sites),
        "influence.step": torch.ones(steps),
    }


@torch.inference_mode()
def image(degrees: tuple[int, int, int] | None, kind: str, method: str | None) -> tuple[Tensor, str]:
    """Latents of two images, and the decisions' digest."""
    pipe = ours(kind).parallelize(Mesh() if degrees is None else mesh_of(*degrees))
    if kind == "dit":
        text = PromptStates(torch.tensor([1.0, 4.0]).view(-1, 1, 1, 1), torch.ones(2, 1, dtype=torch.long))
    else:
        text = states(2)
    options = {} if method is None else {"policy": make_policy(method)}
    if kind == "pixart":
        options["negative_prompt_states"] = states(2).rows([1])
    maker = pipe._maker(pipe.request(prompt_states=[text], seed=[3, 4], **options), None)
    return maker.latents(maker.request.references), maker.sessions[0].digest()


def made_by_half(options: dict[str, Any]) -> Any:
    """The clip of the first of two ranks that work side by side; the second does nothing at all meanwhile."""
    return None if mesh_of(2, 1, 1).replica else made((2, 1, 1), **options)[0]


def run_made(degrees: tuple[int, int, int], options: dict[str, Any]) -> tuple[Any, list[str], list[dict[str, str]]]:
    """`made` for the pool, which passes no keywords; makes sure that ranks had something to tell each other."""
    found, mesh = made(degrees, **options), mesh_of(*degrees)
    assert mesh.sequence.ledger.sent or mesh.guidance.ledger.sent
    return found


def encoded(count: int) -> tuple[Tensor, int]:
    """The latent of a clip of 35 frames whose encoding is dealt out to so many ranks, and the pieces done here."""
    pipe = tiny_pipeline()
    mesh = mesh_of(1, 1, count) if count > 1 else Mesh()
    done = 0

    def each(pieces: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        def counting(piece: Callable[[], Tensor]) -> Tensor:
            nonlocal done
            done += 1
            return piece()

        return dealt([partial(counting, piece) for piece in pieces], mesh=mesh, device=torch.device("cpu"))

    clip = torch.rand(3, 35, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    noise = SampleNoise.from_seeds([7]).of(0)
    with torch.inference_mode(), cpu_threads(1):
        (latent,) = References((clip,), "0").encode(pipe.vae, noise, each=each)
    return latent, done
