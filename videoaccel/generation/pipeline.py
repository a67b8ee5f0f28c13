"""One generation: prompt in, frames out.

Shape legend: P prompts, B samples (P times samples per prompt), N steps, T frames, H, W pixels, Z latent channels,
t, h, w latent sizes, L text tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel
from typing_extensions import Self

from videoaccel.common.devices import check_device, check_offload
from videoaccel.common.reading import parse_bytes
from videoaccel.common.stages import StageClock
from videoaccel.common.user_warning import warn_user
from videoaccel.common.versions import dtype_argument
from videoaccel.generation.accelerate import accelerate
from videoaccel.generation.call import Call
from videoaccel.generation.cuda_graph import cuda_graphs
from videoaccel.generation.graphs import Asked, Graphs
from videoaccel.generation.loading import find_model, import_networks, load_parts, torch_dtype, type_on
from videoaccel.generation.lora import TakesLora
from videoaccel.generation.maker import Maker
from videoaccel.generation.outputs import OUTPUT_TYPES, VideoPipelineOutput, as_frames
from videoaccel.generation.prepared import Denoising
from videoaccel.generation.references import references_of_prompts
from videoaccel.generation.request import (
    Request,
    negative_text,
    null_states,
    prompt_list,
    prompt_texts,
    sample_noise,
    states_of_loops,
)
from videoaccel.generation.tuning import Kernels, Precision, Tuned, allow_tf32, tune
from videoaccel.parallel.mesh import Mesh
from videoaccel.planning.prior import Prior
from videoaccel.session.policy import Policy, Session
from videoaccel.settings.config import Defaults
from videoaccel.text.classes import ClassNames
from videoaccel.text.encoder import PromptStates, encode, load_text_encoder


class VideoPipeline(TakesLora, DiffusionPipeline):
    """Text, image or video to video.

    Args:
        transformer: The network, a :class:`videoaccel.models.protocols.Transformer`.
        vae: The video VAE, an :class:`videoaccel.models.protocols.Autoencoder`.
        scheduler: A :class:`videoaccel.models.protocols.Schedule`.
        tokenizer: Of the text encoder; with it may be left out where text states are given.
        text_encoder: T5.
        defaults: Fields of :class:`videoaccel.settings.config.Defaults`.
        id2label: Names of classes by their number, for a transformer that reads classes.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["tokenizer", "text_encoder"]  # noqa: RUF012 (diffusers reads this name)
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self,
        transformer: ModelMixin,
        vae: ModelMixin,
        scheduler: SchedulerMixin,
        tokenizer: Optional[PreTrainedTokenizerBase] = None,  # noqa: UP045 (what diffusers 0.36 can read)
        text_encoder: Optional[T5EncoderModel] = None,  # noqa: UP045
        defaults: Optional[dict[str, Any]] = None,  # noqa: UP045
        id2label: Optional[dict[str, str]] = None,  # noqa: UP045
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, vae=vae, scheduler=scheduler, tokenizer=tokenizer, text_encoder=text_encoder
        )
        self.policy: Policy | None = None
        self.prior: Prior | None = None
        self.foreign_prior = False
        self.cache_memory: int | None = None
        self.mesh = Mesh()
        self.tuned = Tuned()
        self.graphs: Graphs | None = None
        self.register_to_config(defaults=Defaults(**(defaults or {})).model_dump(), id2label=id2label)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a pipeline by name (``demo``, ``opensora-v1.2``), from a folder, or by a released hub id.

        Args:
            pretrained_model_name_or_path: See :func:`videoaccel.generation.loading.find_model`.
            **kwargs: ``torch_dtype`` of transformer and VAE (default: the model's own; float32 in place of float16
                where there is no CUDA device), and what diffusers takes: components to use in place of the saved ones
                (``text_encoder=None`` leaves it out), ``revision``, ``cache_dir``.

        Raises:
            ValueError: There is no such model, or its files do not fit.
        """
        overrides = {key: kwargs.pop(key) for key in ("vae", "text_encoder") if isinstance(kwargs.get(key), str)}
        source = find_model(str(pretrained_model_name_or_path), **overrides)
        own = type_on("cuda" if torch.cuda.is_available() else "cpu", source.spec.defaults.dtype)
        dtype = kwargs.pop("torch_dtype", None) or kwargs.pop("dtype", None) or torch_dtype(own)
        text_dtype = torch_dtype(source.spec.defaults.text_dtype)
        if source.folder is not None:
            import_networks(source.folder)
            types = dtype_argument("diffusers", {"default": dtype, "text_encoder": text_dtype})
            return super().from_pretrained(source.folder, **types, **kwargs)
        parts = load_parts(source, dtype=dtype) | kwargs
        if "text_encoder" not in kwargs and not parts["transformer"].reads_classes:
            text = source.text
            parts["tokenizer"], parts["text_encoder"] = load_text_encoder(
                text.source, subfolder=text.subfolder, dtype=text_dtype
            )
        return cls(**parts)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast, as diffusers' pipelines do: a device, a dtype, or both.

        float32 stays float32 from here on: PyTorch's convolutions would round to TF32, see :meth:`tune`.

        Raises:
            ValueError: There is no such device here.
        """
        for device in (*args[:1], kwargs.get("device")):
            if isinstance(device, str | int | torch.device):
                check_device(device)
        allow_tf32(self.tuned.tf32)
        if self.graphs is not None:
            self.graphs.clear()
        # What diffusers says of float16 on CPUs, that it cannot run there, does not hold for these networks.
        return super().to(*args, **{"silence_dtype_warnings": True, **kwargs})

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: str | torch.device | None = None) -> None:
        """Keep on the GPU only the network at work; ``gpu_id`` or ``device`` say on which.

        Raises:
            ValueError: There is no CUDA device here.
        """
        check_offload(device)
        super().enable_model_cpu_offload(gpu_id=gpu_id, device=device)

    @property
    def defaults(self) -> Defaults:
        """What is generated unless told otherwise."""
        return Defaults(**self.config.defaults)

    @torch.inference_mode()
    def encode_prompt(self, prompts: str | Sequence[str]) -> PromptStates:
        """Text states of prompts that are ready for the tokenizer, P rows; each is encoded alone.

        Raises:
            ValueError: The pipeline has no text encoder, or a prompt is no text.
        """
        if self.transformer.reads_classes:
            return ClassNames(self.config.id2label).read(prompt_list(prompts))
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("the pipeline was loaded without a text encoder; pass prompt_states")
        length = self.transformer.tokens_read(self.transformer.config)
        return encode(prompt_list(prompts), tokenizer=self.tokenizer, text_encoder=self.text_encoder, max_length=length)

    def request(self, prompt: str | Sequence[str] | None = None, **options: Any) -> Request:
        """Say a batch in full; arguments as in :class:`videoaccel.generation.call.Call`.

        Raises:
            TypeError: There is no such argument.
            ValueError: An argument is out of range or does not fit the others; says which and what would work.
        """
        call = Call.of(prompt, options)
        call.check()
        d, space = self.defaults, self.vae.space_factor
        states, negative, rows = self._texts(call)
        samples = call.num_videos_per_prompt
        noise, first_seed = sample_noise(call.seed, call.generator, prompts=len(rows) // samples, samples=samples)
        size = {"height": _or(call.height, d.height), "width": _or(call.width, d.width)}
        given = references_of_prompts(call.references, prompt_list(prompt), count=len(rows) // samples, **size)
        told = call.callback_on_step_end
        made = Request(
            **size,
            num_frames=_or(call.num_frames, d.num_frames),
            fps=_or(call.fps, d.fps),
            steps=_or(call.num_inference_steps, d.steps),
            guidance=_or(call.guidance_scale, d.guidance),
            states=states,
            negative=negative,
            noise=noise,
            seed=first_seed,
            references=tuple(given[row] for row in rows),
            condition_latents=_or(call.condition_latents, d.condition_latents),
            condition_edit=call.condition_edit,
            align=d.align,
            latents=call.latents,
            policy=call.policy or self.policy,
            prior=call.prior or self.prior,
            foreign_prior=call.foreign_prior or self.foreign_prior,
            cache_memory=self.cache_memory if call.cache_memory is None else parse_bytes(call.cache_memory),
            attention=call.attention_backend,
            sequence=call.sequence_parallel,
            callback=None if told is None else partial(_told, self, told),
            explain=call.explain,
        )
        made.check(space_factor=space)
        if any(pixels % space for pixels in size.values()):
            whole = "x".join(str(pixels - pixels % space) for pixels in size.values())
            warn_user(
                f"this model makes multiples of {space} pixels: the clip will be {whole}, "
                f"not {size['height']}x{size['width']}"
            )
        made.check_model(self.transformer, latent_size=self.vae.latent_size((made.num_frames, *size.values())))
        return made

    def _texts(self, call: Call) -> tuple[tuple[PromptStates, ...], PromptStates | None, list[int]]:
        """Text states of every loop, those in place of the null text, and which prompt each sample is of."""
        d, given, negative = self.defaults, call.prompt_states, call.negative_prompt_states
        if given is None:
            texts = prompt_texts(prompt_list(call.prompt), d, loops=call.loops, clean=call.clean_prompt)
            given = [self.encode_prompt([text[loop] for text in texts]) for loop in range(call.loops)]
        states = states_of_loops(given)
        if call.negative_prompt is not None and negative is None:
            negative = self.encode_prompt(negative_text(call.negative_prompt, clean=call.clean_prompt))
        rows = [row for row in range(len(states[0].mask)) for _ in range(call.num_videos_per_prompt)]
        negative = None if negative is None else negative.rows([0] * len(rows))
        if negative is None and not self.transformer.learns_null_text and _or(call.guidance_scale, d.guidance) != 1:
            empty, padded = call.empty_prompt_states or self.encode_prompt([""]), self.transformer.null_text_is_padded
            negative = null_states(empty, states[0], padded=padded).rows(rows)
        return tuple(one.rows(rows) for one in states), negative, rows

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Any,
    ) -> VideoPipelineOutput | tuple[Any]:
        """Generate.

        Args:
            prompt: One or several; ``|0|...|2|...`` gives loops their own texts.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``, see :class:`VideoPipelineOutput`.
            return_dict: False returns a tuple.
            **options: Size, steps, guidance and so on: the fields of :class:`videoaccel.generation.call.Call`.

        Raises:
            TypeError: There is no such argument.
            ValueError: An argument is out of range or does not fit the others.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        request = self.request(prompt, **options)
        with self.progress_bar(total=request.steps * len(request.states)) as bar:
            clock = StageClock(
                lambda stage, done, total: bar.update(stage == "denoise" and done > 0), device=self._execution_device
            )
            if output_type == "latent":
                frames: Any = self.latents(request, clock=clock)
            else:
                frames = as_frames(list(self.stream(request, clock=clock)), output_type)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames=frames) if return_dict else (frames,)

    def accelerate(self, method: str | None, **options: Any) -> Self:
        """Accelerate all that is generated from now on: :func:`videoaccel.accelerate` with this pipeline."""
        return accelerate(self, method, **options)

    def tune(
        self,
        *,
        kernels: Kernels = "auto",
        precision: Precision = "full",
        compile: bool = False,
        tf32: bool = False,
        graphs: Asked = "auto",
    ) -> Self:
        """Make the networks faster on the device that they are on; call it after :meth:`to`.

        Args:
            kernels: ``triton`` for ours, ``torch`` for PyTorch's own, ``auto`` for ours where they run and agree.
            precision: ``fp8`` runs the products of the transformer's blocks in 8 bits.
            compile: Compile the parts of the transformer's modules, and the VAE's decoders; the first clip of a size
                takes long.
            tf32: Let float32 products and convolutions round to TF32: faster, and off by some 2e-4.
            graphs: Replay network calls as CUDA graphs, bit for bit the same: ``auto`` where a call is small enough to
                wait for the host and a graph is measured to gain, ``on`` wherever one can be recorded. Methods that
                decide about modules run as they are.

        Raises:
            ValueError: What is asked for cannot be had here; says why.
        """
        if self.graphs is not None:
            self.graphs.clear()
        device = self._execution_device
        self.tuned = tune(
            self.transformer,
            self.vae,
            device=device,
            dtype=self.transformer.dtype,
            kernels=kernels,
            precision=precision,
            compiled=compile,
            tf32=tf32,
            graphs=graphs,
        )
        on = self.tuned.graphs
        self.graphs = None if on == "off" else cuda_graphs(device, width=self.transformer.width, asked=on)
        return self

    def parallelize(self, mesh: Mesh) -> Self:
        """Make all clips from now on together with the other ranks of a mesh, which must ask for the same.

        Every rank gets the frames. ``Mesh()`` ends it.

        Args:
            mesh: From :meth:`videoaccel.parallel.mesh.Mesh.from_env`.
        """
        self.mesh = mesh
        return self

    @torch.inference_mode()
    def latents(self, request: Request, *, clock: StageClock | None = None) -> Tensor:
        """Latents of a single loop, float32 [B, Z, t, h, w].

        Raises:
            ValueError: The request has several loops: later ones go on from decoded frames.
        """
        if len(request.states) > 1:
            raise ValueError(f"latents can be had of one loop, not of {len(request.states)}")
        return self._maker(request, clock).latents(request.references)

    @torch.inference_mode()
    def denoising(self, request: Request, *, clock: StageClock | None = None) -> Denoising:
        """The denoising run of a request's first loop, ready to start from any step: for measuring."""
        return self._maker(request, clock).denoising(request.references)

    @torch.inference_mode()
    def stream(
        self, request: Request, *, clock: StageClock | None = None, sessions: list[Session] | None = None
    ) -> Iterator[Tensor]:
        """Generate and decode chunk by chunk: yields [B, 3, <= 17, H, W], not clamped.

        Each loop after the first begins with frames of the one before; these are not yielded again.

        Args:
            request: What to make.
            clock: Times the stages.
            sessions: Gets every loop's session, which knows what was computed and what was served.
        """
        maker = self._maker(request, clock)
        maker.sessions = maker.sessions if sessions is None else sessions
        yield from maker.stream()

    def _maker(self, request: Request, clock: StageClock | None) -> Maker:
        return Maker(
            request,
            transformer=self.transformer,
            vae=self.vae,
            scheduler=self.scheduler,
            device=self._execution_device,
            clock=clock or StageClock(device=self._execution_device),
            mesh=self.mesh,
            graphs=self.graphs,
        )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _told(pipeline: VideoPipeline, callback: Callable[..., dict[str, Any]], i: int, t: Tensor, x: Tensor) -> Tensor:
    """A step callback in diffusers' way of calling."""
    return (callback(pipeline, i, t, {"latents": x}) or {}).get("latents", x)
