"""Which names are those of pictures. Nothing here reads any."""

from pathlib import Path

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif",
    ".tga", ".ppm", ".pgm", ".jp2",
)  # fmt: skip
"""Names that end so are pictures; .gif is a clip."""


def is_image(path: str | Path) -> bool:
    """Whether a name is a picture's, by its ending alone.

    >>> is_image("cat.JPG"), is_image("cat.gif"), is_image("frames/")
    (True, False, False)
    """
    return Path(path).suffix.lower() in IMAGE_SUFFIXES
