"""Words of messages.

Messages name settings in backticks, `` `edit` `` or with a value `` `edit=0.4` ``, as Python and YAML spell them. The
command line puts its own spelling there, ``--edit 0.4``, see `videoaccel.cli.flags`.
"""

from collections.abc import Iterable


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "prompt"), counted(2, "prompt")
    ('1 prompt', '2 prompts')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Rising numbers, with neighbours put together.

    >>> ranges([0, 1, 3, 5, 6, 7])
    '0-1, 3, 5-7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def short(value: object, *, most: int = 80) -> str:
    """A value of others as Python spells it, at no length.

    >>> short("a"), short([1] * 99, most=12), short(10**9999)
    ("'a'", '[1, 1, 1,...', 'a number of more than 4,000 digits')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:  # Python refuses to write long numbers
        return "a number of more than 4,000 digits" if isinstance(error, ValueError) else "something endless"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: BaseException, *, most: int = 300) -> str:
    r"""What an error of a library says first; its kind where it says nothing.

    >>> first_line(ValueError("no such thing.\\nat 3")), first_line(IndexError())
    ('no such thing', 'IndexError')
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= most else f"{line[: most - 3]}..."


def as_bytes(count: int) -> str:
    """A size, in the largest unit of which there is one; rounded up, so that what is read is enough.

    >>> as_bytes(1000), as_bytes(1536), as_bytes(5 * 2**30 + 1)
    ('1000 B', '1.5 KiB', '5.1 GiB')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{-(-count * 10 // size) / 10:g} {unit}"
    return f"{count} B"


def span(seconds: float) -> str:
    """A time for people.

    >>> span(3.21), span(130), span(9000)
    ('3.2 s', '2 min 10 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
