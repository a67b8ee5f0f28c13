"""What ships with the package besides code: configurations, the demo model, its prior and routers."""

from pathlib import Path

_HERE = Path(__file__).parents[1]


def packaged(*parts: str) -> Path:
    """Where something in the package is, ``packaged("assets", "priors")``; it need not exist."""
    return _HERE.joinpath(*parts)
