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
