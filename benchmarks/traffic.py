"""Bytes that a rank sends for a clip, by way of sharing and size: computed from formulas, nothing is run.

    python -m benchmarks.traffic

The formulas are those of ``parallel/traffic.py``, which tests hold against the ledgers of real ranks.
"""

from typing import Any

from benchmarks.measure import keep
from videoaccel.parallel.degrees import Degrees
from videoaccel.parallel.traffic import Stream, load, switch_bytes

FORMULAS = {
    "dsp": "2 M' (N-1)/N^2 a pair, M' with frames and places padded to multiples of N",
    "ulysses": "4 M' (N-1)/N^2 a pair, M' with places and heads padded to multiples of N",
    "ring": "2 M (N-1)/N a pair, no padding",
}
SIZES = {"240p": (240, 426), "360p": (360, 640), "480p": (480, 854), "720p": (720, 1280)}
FRAMES = (51, 102, 204, 408)
RANKS = (2, 4, 8, 16, 32, 64)


def stream_of(size: tuple[int, int], frames: int) -> Stream:
    """Open-Sora v1.2 in bfloat16 with guidance: 5 latents for 17 frames, 16 x 16 pixels a token."""
    height, width = (-(-pixels // 8) for pixels in size)
    latents = -(-frames // 17) * 5 if frames % 17 == 0 else frames // 17 * 5 + -(-(frames % 17) // 4)
    places = -(-height // 2) * -(-width // 2)
    return Stream(2, latents, places, 1152, 16, 2, 28, 32, 4 * latents * height * width * 4)


def main() -> None:
    """Compute and keep the table."""
    rows: list[dict[str, Any]] = []
    for name, size in SIZES.items():
        for frames in FRAMES:
            stream = stream_of(size, frames)
            for ranks in RANKS:
                sent = {way: stream.layers * switch_bytes(stream, ranks, scheme=way) for way in FORMULAS}
                told = load(stream, Degrees(1, 1, ranks), scheme="dsp")
                rows.append(
                    {
                        "size": name,
                        "frames": frames,
                        "latent_frames": stream.frames,
                        "places": stream.places,
                        "ranks": ranks,
                        **{f"{way}_mib_a_step": round(value / 2**20, 2) for way, value in sent.items()},
                        "dsp_gather_mib_a_step": round(told.gathered / 2**20, 2),
                        "dsp_frames_padded": round(told.frame_waste, 4),
                        "places_padded": round(told.place_waste, 4),
                    }
                )
    keep("traffic", {"computed": "from formulas, not measured", "formulas": FORMULAS, "rows": rows})


if __name__ == "__main__":
    main()
