"""Words of messages.

Messages name settings in backticks, `` `edit` `` or with a value `` `edit=0.4` ``, as Python and YAML spell them. The
command line puts its own spelling there, ``--edit 0.4``, see `videoaccel.cli.flags`.
"""


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "prompt"), counted(2, "prompt")
    ('1 prompt', '2 prompts')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def as_bytes(count: int) -> str:
    """A size, in the largest unit of which there is one; rounded up, so that what is read is enough.

    >>> as_bytes(1000), as_bytes(1536), as_bytes(5 * 2**30 + 1)
    ('1000 B', '1.5 KiB', '5.1 GiB')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{-(-count * 10 // size) / 10:g} {unit}"
    return f"{count} B"
