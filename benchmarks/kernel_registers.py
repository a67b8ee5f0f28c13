"""Every Triton kernel compiled for Hopper (sm_90), without a GPU: registers, shared memory, and that nothing spills.

    python -m benchmarks.kernel_registers

At the sizes of STDiT3-XL/2 (C = 1152, 16 heads of 72) and of the small networks that ship, in bfloat16 and float32.
Needs Triton and the ``cuobjdump`` in its wheel. Writes ``benchmarks/results/kernel_registers.json``.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.measure import keep
from videoaccel.models.kernels import columns, group_norm, modulate, qk_norm, quantize, temporal_attention

TARGET = GPUTarget("cuda", 90, 32)
DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
DIVISIBLE = ("width", "channels", "row_stride", "frame_stride", "pixels")
"""Whole numbers that 16 divides at these sizes: Triton finds that at a launch, and loads 16 bytes at a time."""

USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class Case(NamedTuple):
    """A kernel as it is launched.

    Attributes:
        name: With its sizes.
        kernel: Of Triton.
        types: Of its arguments, in order; ``constexpr`` for constants.
        constants: Their values.
        warps: Of a program.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int


def cases(kind: str) -> Iterator[Case]:
    """All kernels for activations of a type."""
    x, whole, number = f"*{kind}", "i32", "fp32"
    for heads, size, frames in ((16, 72, 15), (16, 72, 30), (4, 64, 5)):
        tile = temporal_attention.shape_of(frames, size)
        places = max(1, 16 // tile["TIMES"])
        warps = 2 if places * tile["TIMES"] <= 16 else 4
        types = {
            "qkv": x,
            "q_weight": "*fp32",
            "k_weight": "*fp32",
            "cos_table": "*fp32",
            "sin_table": "*fp32",
            "out": x,
        }
        types |= {"frames": whole, "places": whole, "eps": number, "scale": number}
        constants = {"N": heads, "D": size, **tile, "P": places}
        yield _case(
            f"temporal attention, {frames} frames, heads of {size}", temporal_attention._attend, types, constants, warps
        )
        types = {"qkv": x, "q_weight": "*fp32", "k_weight": "*fp32", "rows": whole, "eps": number}
        constants = {"N": heads, "D": size, "WIDE": triton.next_power_of_2(size), "ROWS": 32}
        yield _case(f"q/k norm, heads of {size}", qk_norm._norm, types, constants, 4)
    sizes = dict.fromkeys(("frames", "places", "width", "row_stride", "frame_stride"), whole)
    for width in (1152, 256):
        block = {"BLOCK": triton.next_power_of_2(width)}
        types = {"x": x, "table": x, "out": x, **sizes, "shift": whole, "eps": number}
        yield _case(f"modulate, {width} channels", modulate._modulate, types, block, 4)
        types = {"x": x, "delta": x, "table": x, "out": x, **sizes, "gate": whole}
        yield _case(f"gated add, {width} channels", modulate._gated_add, types, block, 4)
        yield from _columns(kind, width)
    for channels in (128, 512):
        tile = {"ROWS": group_norm.TILE // channels, "BLOCK": channels}
        sums = {"PIXELS": group_norm.PIXELS, "ROWS": group_norm.SUM_TILE // channels, "BLOCK": channels}
        types = {"x": x, "sums": "*fp32", "pixels": whole, "channels": whole}
        yield _case(f"group norm's sums, {channels} channels", group_norm._sums, types, sums, 4)
        types = {"x": x, "factor": "*fp32", "offset": "*fp32", "out": x, "pixels": whole, "channels": whole}
        for silu in (False, True):
            name = f"group norm{' and SiLU' if silu else ''}, {channels} channels"
            yield _case(name, group_norm._apply, types, {"SILU": silu, **tile}, 4)
    for width, gelu in ((1152, False), (4608, True)):
        block = triton.next_power_of_2(width)
        types = {"x": x, "out": "*fp8e4nv", "scales": "*fp32", "width": whole}
        constants: dict[str, Any] = {"LARGEST": quantize.LARGEST, "GELU": gelu, "BLOCK": block}
        yield _case(f"rows of {width} in 8 bits", quantize._quantize, types, constants, 4 if block < 4096 else 8)
    for width in (1152, 256):
        types = {"x": x, "table": x, "out": "*fp8e4nv", "scales": "*fp32", **sizes, "shift": whole, "eps": number}
        constants = {"LARGEST": quantize.LARGEST, "BLOCK": triton.next_power_of_2(width)}
        yield _case(f"modulated rows of {width} in 8 bits", quantize._modulate, types, constants, 4)


def _columns(kind: str, width: int) -> Iterator[Case]:
    """What is done with some columns of a stream of so many channels."""
    x, block, of = f"*{kind}", {"BLOCK": triton.next_power_of_2(width)}, f"{width} channels"
    types = {"x": x, "before": x, "scores": "*fp32", **dict.fromkeys(("frames", "places", "width"), "i32")}
    constants: dict[str, Any] = {"CHANGE": False, "ABSOLUTE": False, **block}
    yield _case(f"columns' scores, {of}", columns._score, types, constants, 4)
    whole = dict.fromkeys(("frames", "places", "kept", "width", "row_stride", "frame_stride", "gate"), "i32")
    types = {**dict.fromkeys(("x", "part", "rest"), x), "numbers": "*i32", "table": x, "out": x, **whole}
    constants = {"GATED": True, "KEEP": True, **block}
    yield _case(f"sum with some columns, {of}", columns._add, types, constants, 4)
    if width == 1152:
        whole = dict.fromkeys(("frames", "places", "real", "length", "quota", "kept"), "i32")
        types = {"scores": "*fp32", "flat": "*i64", "numbers": "*i32", **whole}
        yield _case("columns' choice", columns._choose, types, {"ROWS": 128, "RIVALS": 32}, 4)


def _case(name: str, kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], warps: int) -> Case:
    return Case(name, kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constants, warps)


def compiled(case: Case) -> dict[str, int]:
    """Registers of a thread, bytes that spill, shared memory, and wide loads of a kernel's machine code."""
    places = [i for i, (name, kind) in enumerate(case.types.items()) if kind.startswith("*") or name in DIVISIBLE]
    divisible = {(i,): [["tt.divisibility", 16]] for i in places}
    source = ASTSource(fn=case.kernel, signature=dict(case.types), constexprs=dict(case.constants), attrs=divisible)
    made = triton.compile(source, target=TARGET, options={"num_warps": case.warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([str(DUMP), option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    found = [tuple(map(int, match)) for match in USAGE.findall(usage)]
    registers, stack, _, local = max(found)
    return {
        "registers": registers,
        "spilled_bytes": max(stack, local, code.count("LDL") + code.count("STL")),
        "shared_bytes": int(made.metadata.shared),
        "wide_loads": code.count("LDG.E.128"),
    }


def main() -> None:
    """Compile all and keep the table; ends with 1 where one spills."""
    rows: list[dict[str, Any]] = [
        {"kernel": case.name, "type": kind, "warps": case.warps, **compiled(case)}
        for kind in ("bf16", "fp32")
        for case in cases(kind)
    ]
    keep("kernel_registers", {"target": "sm_90", "triton": triton.__version__, "rows": rows})
    if spilling := [row["kernel"] for row in rows if row["spilled_bytes"]]:
        sys.exit(f"spill: {', '.join(spilling)}")


if __name__ == "__main__":
    main()
