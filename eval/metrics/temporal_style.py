"""How well a clip fits its prompt, by ViCLIP (Wang et al. 2024); VBench's prompts for it are about camera motion."""

from typing import ClassVar

from videoaccel.eval.metrics.overall_consistency import OverallConsistency


class TemporalStyle(OverallConsistency):
    """Temporal style: overall consistency, of other prompts."""

    title: ClassVar[str] = "temporal style"
