"""One request made: noise to latents to frames, loop by loop.

Shape legend: B samples, N steps, T frames, H, W pixels, Z latent channels, t, h, w latent sizes.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from videoaccel.common.stages import StageClock
from videoaccel.common.user_warning import warn_user
from videoaccel.generation.attention_kernels import NATIVE, attention_kernel
from videoaccel.generation.cache_memory import fit_here
from videoaccel.generation.denoise import StepCallback
from videoaccel.generation.graphs import Graphs
from videoaccel.generation.prepared import Denoising
from videoaccel.generation.references import References, with_tail
from videoaccel.generation.request import Request
from videoaccel.models.compiled import is_compiled, is_new_to_decoders
from videoaccel.models.protocols import Autoencoder, Context, Schedule, Transformer, here
from videoaccel.models.seam import direct
from videoaccel.parallel.deal import dealt
from videoaccel.parallel.decode import decoded
from videoaccel.parallel.layout import Layout
from videoaccel.parallel.mesh import Mesh
from videoaccel.parallel.schemes import choose_scheme, find_layout
from videoaccel.parallel.shards import Shards
from videoaccel.planning.prior import setting_of
from videoaccel.planning.prior_tables import check_tables
from videoaccel.planning.shelf import advice, find_prior
from videoaccel.sampling.conditioning import apply_mask_strategy, size_numbers
from videoaccel.sampling.noise import SampleNoise
from videoaccel.session.done import Done
from videoaccel.session.job import Job, Mix
from videoaccel.session.policy import NoTableError, Policy, Session
from videoaccel.settings.latent_frames import frames_of


@contextmanager
def naming_the_nearest(setting: Mapping[str, Any], *, found: bool, also: str = "") -> Iterator[None]:
    """Where a method misses calibrated tables, say which prior there is instead, if any was looked for in vain.

    Args:
        setting: What is to be generated.
        found: Whether there is a prior, which has other tables.
        also: What else to say.

    Raises:
        ValueError: A method misses calibrated tables.
    """
    try:
        yield
    except NoTableError as error:
        raise ValueError(f"{error}{'' if found else advice(setting)}{also}") from None


class Maker:
    """Makes what one request asks for.

    Args:
        request: What is asked for.
        transformer: The network.
        vae: The video VAE.
        scheduler: The schedule; its timesteps are set here.
        device: Where latents live.
        clock: Times the stages ``references``, ``prepare``, ``plan``, ``compile``, ``denoise`` and ``decode``.
        mesh: The ranks that make it together; default this one alone.
        graphs: Recorded pieces of the network; of several ranks only where it was asked for by ``on``.

    Attributes:
        sessions: Of every loop so far, those that are over without what they stored.
    """

    def __init__(
        self,
        request: Request,
        *,
        transformer: Transformer,
        vae: Autoencoder,
        scheduler: Schedule,
        device: torch.device,
        clock: StageClock,
        mesh: Mesh | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        self.request, self.clock, self.device, self.mesh = request, clock, device, mesh or Mesh()
        alone = self.mesh.clip.size == 1
        self.graphs = graphs if graphs is not None and (alone or graphs.asked == "on") else None
        if self.graphs is not None:
            self.graphs.begin()
        self.transformer, self.vae, self.scheduler = transformer, vae, scheduler
        self.size = vae.latent_size((request.num_frames, request.height, request.width))
        self.shape = (vae.latent_channels, *self.size)
        self.steps = request.steps if request.policy is None else request.policy.steps(request.steps)
        self.sessions: list[Session] = []
        self.branches = ("cond",) if request.guidance == 1 else ("cond", "uncond")

    def latents(self, references: Sequence[References], *, loop: int = 0) -> Tensor:
        """Latents of one loop, float32 [B, Z, t, h, w]."""
        request, model = self.request, self.transformer
        denoising = self.denoising(references, loop=loop)
        session = self._session(denoising)
        plain = request.policy is None and request.attention == NATIVE and denoising.layout.alone
        run = direct if plain else session.run
        if is_compiled(cast(nn.Module, model)):
            with self.clock.stage("compile"):
                denoising.warm_up(plain=plain)
        if self.graphs is not None:
            with self.clock.stage("compile"):
                denoising.record(session)
        with self.clock.stage("denoise", total=self.steps) as step:
            callback = partial(_after_step, step, self._told())
            latents = denoising.denoise(session, run=run, callback=callback)
        self.sessions[-1] = Done(session)
        if self.graphs is not None and self.graphs.asked == "on" and self.graphs.plain:
            warn_user(f"not all was run by `graphs=on`: {'; '.join(self.graphs.plain)}")
        return latents

    def _told(self) -> StepCallback | None:
        """The user's callback, which may change weights."""
        callback, graphs = self.request.callback, self.graphs
        if callback is None or graphs is None:
            return callback

        def told(i: int, t: Tensor, x: Tensor) -> Tensor:
            after = callback(i, t, x)
            graphs.check(cast(nn.Module, self.transformer), x.device)
            return after

        return told

    def denoising(self, references: Sequence[References], *, loop: int = 0) -> Denoising:
        """The denoising run of one loop, ready to start."""
        request = self.request
        z = self._draw() if request.latents is None or loop else self._given_latents(request.latents)
        z, mask = self._place(z, references, loop=loop)
        layout = self._layout()
        branches = layout.branches(self.branches)
        with self.clock.stage("prepare"):
            context = self._context(loop, branches, self.size)
        return Denoising(
            model=self.transformer,
            context=context,
            branches=branches,
            guidance_scale=request.guidance,
            z=z,
            timesteps=self._timesteps(len(z)),
            sigmas=self.scheduler.sigmas.expand(len(z), -1),
            update=self.scheduler.stepper(request.noise.of_steps()),
            mask=mask,
            draw=partial(_drawn, self.request.noise, self.shape, self.device),
            seed=request.seed,
            setting=self._setting(),
            layout=layout,
            graphs=self.graphs,
            keeps_variance=self.scheduler.keeps_variance,
            context_of=partial(self._context, loop, branches),
        )

    def stream(self) -> Iterator[Tensor]:
        """Decoded chunks of all loops, [B, 3, <= 17, H, W], not clamped.

        Each loop after the first begins with frames of the one before; these are not yielded again.
        """
        request, references = self.request, list(self.request.references)
        overlap = frames_of(request.condition_latents)
        for loop in range(len(request.states)):
            latents = self.latents(references, loop=loop)
            tail, skip = latents.new_empty(()), overlap if loop else 0
            for chunk in self._decode(latents):
                tail = torch.cat((tail, chunk), dim=2)[:, :, -overlap:] if tail.ndim else chunk[:, :, -overlap:]
                if skip < chunk.shape[2]:
                    yield chunk[:, :, skip:]
                skip = max(skip - chunk.shape[2], 0)
            references = with_tail(
                references,
                list(tail.float().clamp(-1, 1)),
                loop=loop + 1,
                latents=request.condition_latents,
                edit=request.condition_edit,
            )

    def _draw(self) -> Tensor:
        return _drawn(self.request.noise, self.shape, self.device)

    def _given_latents(self, latents: Tensor) -> Tensor:
        expected = (len(self.request.noise), *self.shape)
        if latents.shape != expected:
            raise ValueError(f"latents must have shape {list(expected)}, got {list(latents.shape)}")
        return latents.clone().to(self.device)

    def _timesteps(self, rows: int) -> Tensor:
        """The schedule [N, B]; sizes are rounded to the network's type as in the release."""
        size = {"height": self.request.height, "width": self.request.width, "num_frames": self.request.num_frames}
        self.scheduler.set_timesteps(self.steps, self.device, **size, dtype=self.transformer.dtype)
        return self.scheduler.timesteps.expand(-1, rows)

    def _place(self, z: Tensor, references: Sequence[References], *, loop: int) -> tuple[Tensor, Tensor | None]:
        """Write references into the initial latent; the mask is None where nothing is given in this loop."""
        if not any(reference.strategy for reference in references):
            return z, None
        with self.clock.stage("references"):
            noises = [self.request.noise.of(row) for row in range(len(references))]
            each = here if self.mesh.clip.size == 1 else partial(dealt, mesh=self.mesh, device=self.device)
            pairs = zip(references, noises, strict=True)
            align = self.request.align
            encoded = [one.encode(self.vae, noise, each=each, whole=align is None) for one, noise in pairs]
        strategies = [reference.strategy for reference in references]
        z, mask = apply_mask_strategy(z, references=encoded, strategies=strategies, loop=loop, align=align)
        return (z, None) if bool((mask == 1).all()) else (z, mask)

    def _context(self, loop: int, branches: Sequence[str], size: Sequence[int]) -> Context:
        """Text, frame rate and positions of some branches for a latent of T, h, w.

        The null text keeps the prompt's mask, as in the release.
        """
        request, model, device = self.request, self.transformer, self.device
        y, mask = request.states[loop].states.to(device), request.states[loop].mask.to(device)
        if "uncond" in self.branches and request.negative is not None:
            y = torch.cat((y, request.negative.states.to(y)))
            mask = torch.cat((mask, request.negative.mask.to(mask)))
        elif "uncond" in self.branches:
            assert model.null_text is not None
            null = model.null_text.to(y)
            y = torch.cat((y, null[: y.shape[2]].expand(len(y), 1, -1, -1)))
        pixels = {"height": request.height, "width": request.width}
        told = size_numbers(1, **pixels, num_frames=request.num_frames, fps=request.fps, dtype=model.dtype)
        context = model.prepare(
            y,
            mask=mask,
            fps=told["fps"].to(device),
            height=told["height"],
            width=told["width"],
            latent_size=size,
        )
        if tuple(branches) == self.branches:
            return context
        rows = len(y) // len(self.branches)
        return context.rows([self.branches.index(name) * rows + row for name in branches for row in range(rows)])

    def _setting(self) -> dict[str, Any]:
        """What a prior must have been made for; only where one is needed, since weights are read for it."""
        request, policy = self.request, self.request.policy
        if policy is None or not policy.required:
            return {}
        return setting_of(
            cast(nn.Module, self.transformer),
            self.scheduler,
            steps=self.steps,
            size=(request.height, request.width),
            frames=request.num_frames,
            guidance=request.guidance,
        )

    def _layout(self) -> Layout:
        """Where the tokens are; ranks own whole column groups where the policy chooses columns."""
        request, mesh = self.request, self.mesh
        kernel = None if request.attention == NATIVE else attention_kernel(request.attention)
        if mesh.clip.size == 1:
            return Layout(kernel)
        frames, rows, columns = self.transformer.token_grid(self.size)
        groups = None if request.policy is None else request.policy.column_groups
        shards = Shards(rows * columns, mesh.sequence.size, groups)
        return find_layout(choose_scheme(request.sequence, frames=frames))(mesh, shards, self.branches, kernel=kernel)

    def _session(self, denoising: Denoising) -> Session:
        request, mix = self.request, denoising.layout.mix
        policy = request.policy
        if policy is None:
            session = Session(denoising.job(), mix=mix)
        else:
            with self.clock.stage("plan"):
                tables = self._tables(denoising.setting)
                job = denoising.job(prior=tables, cache_memory=request.cache_memory)
                with naming_the_nearest(denoising.setting, found=tables is not None):
                    session = self.fitting(policy, job, mix=mix)
        if request.explain:
            session.note_guidance()
        self.sessions.append(session)
        return session

    def fitting(self, policy: Policy, job: Job, *, mix: Mix) -> Session:
        """A method's session within the memory that the job allows; on a GPU, where it says nothing, that is free.

        Raises:
            ValueError: No form of the method keeps within it; or as :meth:`Policy.session`.
        """
        alone, width = self.mesh.clip.size == 1, self.transformer.width
        frames, _, _ = self.transformer.token_grid(self.size)
        return fit_here(policy, job, device=self.device, alone=alone, frames=frames, width=width, mix=mix)[0]

    def _tables(self, setting: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
        """Calibrated tables, where the policy needs some and there are any."""
        if not setting:
            return None
        given, foreign = self.request.prior, self.request.foreign_prior
        find = find_prior if given is None else given.for_setting
        prior = find(setting, foreign=foreign)
        if prior is not None:
            sites = sum(map(len, self.transformer.sites.values()))
            check_tables(prior.tables, prior.setting, source=prior.path, sites=sites)
        if prior is not None and (differences := prior.info.get("interpolated")):
            warn_user(f"a foreign prior is interpolated: it was made for {', '.join(differences)}")
        return None if prior is None else prior.tables

    def _decode(self, latents: Tensor) -> Iterator[Tensor]:
        self._meet(latents)
        chunks = decoded(self.vae, latents, self.request.num_frames, mesh=self.mesh)
        for _ in self.vae.chunks(latents, self.request.num_frames):
            with self.clock.stage("decode"):
                chunk = next(chunks)
            yield chunk

    def _meet(self, latents: Tensor) -> None:
        """Have decoders compiled for chunks of sizes that they have not met, so that it is timed apart."""
        for chunk, frames in self.vae.chunks(latents, self.request.num_frames):
            call = (chunk.shape, frames, self.vae.dtype, self.device)
            if is_new_to_decoders(cast(nn.Module, self.vae), call):
                with self.clock.stage("compile"), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
                    list(self.vae.decode_chunks(chunk, frames))


def _drawn(noise: SampleNoise, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Fresh noise; not a maker's method, for what a denoising run holds a session does, and a maker holds sessions."""
    return noise.draw(shape).to(device)


def _after_step(step: Callable[[], None], callback: StepCallback | None, i: int, t: Tensor, x: Tensor) -> Tensor:
    """Count the step and ask the user's callback; a latent changed in place comes back as a new tensor."""
    step()
    if callback is None:
        return x
    before = x.clone()
    after = callback(i, t, x)
    return after if after is not x or torch.equal(before, x) else x.clone()
