"""Pipelines of diffusers that were tried, by class and scheduler: the table of ``docs/diffusers.md`` in short."""

from collections.abc import Mapping
from types import MappingProxyType

TESTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Allegro": ("EulerAncestralDiscrete",),
        "AnimateDiff": ("DDIM",),
        "AuraFlow": ("FlowMatchEulerDiscrete",),
        "Chroma": ("FlowMatchEulerDiscrete",),
        "CogVideoX": (
            "CogVideoXDDIM",
            "CogVideoXDPM",
        ),
        "CogView4": ("FlowMatchEulerDiscrete",),
        "DiT": ("DDIM",),
        "Flux": ("FlowMatchEulerDiscrete",),
        "Flux2": ("FlowMatchEulerDiscrete",),
        "HunyuanDiT": ("DDPM",),
        "HunyuanVideo": ("FlowMatchEulerDiscrete",),
        "HunyuanVideo15": ("FlowMatchEulerDiscrete",),
        "Kandinsky5T2V": ("FlowMatchEulerDiscrete",),
        "LTX": ("FlowMatchEulerDiscrete",),
        "LTX2": ("FlowMatchEulerDiscrete",),
        "Latte": ("DDIM",),
        "Lumina2": ("FlowMatchEulerDiscrete",),
        "Mochi": ("FlowMatchEulerDiscrete",),
        "MusicLDM": ("DPMSolverMultistep",),
        "PixArtSigma": ("DPMSolverMultistep",),
        "QwenImage": ("FlowMatchEulerDiscrete",),
        "Sana": ("DPMSolverMultistep",),
        "SkyReelsV2": ("UniPCMultistep",),
        "SkyReelsV2DiffusionForcing": ("UniPCMultistep",),
        "StableDiffusion": (
            "PNDM",
            "DDIM",
            "DDPM",
            "DPMSolverMultistep",
            "DPMSolverSinglestep",
            "DEISMultistep",
            "EulerDiscrete",
            "EulerAncestralDiscrete",
            "HeunDiscrete",
            "KDPM2Discrete",
            "KDPM2AncestralDiscrete",
            "LMSDiscrete",
            "IPNDM",
            "SASolver",
            "UniPCMultistep",
            "LCM",
            "TCD",
        ),
        "StableDiffusion3": ("FlowMatchEulerDiscrete",),
        "StableDiffusionControlNet": ("DPMSolverMultistep",),
        "StableDiffusionImg2Img": (
            "DPMSolverMultistep",
            "HeunDiscrete",
        ),
        "StableDiffusionInpaint": ("DPMSolverMultistep",),
        "StableDiffusionXL": ("EulerDiscrete",),
        "Wan": (
            "UniPCMultistep",
            "FlowMatchEulerDiscrete",
            "FlowMatchHeunDiscrete",
            "FlowMatchLCM",
        ),
        "WanModular": ("UniPCMultistep",),
        "WanVideoToVideo": ("UniPCMultistep",),
        "ZImage": ("FlowMatchEulerDiscrete",),
    }
)
"""Class without "Pipeline" -> schedulers without "Scheduler"; what is computed whole, attached, is exact on all."""
