"""Rows of a batch by number, without asking the device to wait."""

from collections.abc import Sequence


def rows_at(rows: Sequence[int]) -> slice | list[int]:
    """An index for some rows: a slice where they follow one another, for a list of numbers has to be copied to a GPU.

    >>> rows_at((2, 3))
    slice(2, 4, None)
    >>> rows_at([0, 2])
    [0, 2]
    """
    numbers = list(rows)
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return numbers
