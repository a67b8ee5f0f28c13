"""Which places of a clip are on which rank.

Places are cut into contiguous shards of equal length, padding at the end of the last ones. Where tokens are pruned,
columns compete within groups, and a rank owns whole groups: so the choice does not depend on the number of ranks.

Shape legend: S places, N ranks, G column groups.
"""

from typing import NamedTuple


class Shards(NamedTuple):
    """How S places are cut.

    Attributes:
        places: S.
        ranks: N.
        groups: G; None if no columns are chosen, so that shards may end anywhere.
    """

    places: int
    ranks: int = 1
    groups: int | None = None

    @property
    def length(self) -> int:
        """Places of a group."""
        return 1 if self.groups is None else -(-self.places // self.groups)

    @property
    def each(self) -> int:
        """Places of a shard, padding included."""
        filled = -(-self.places // self.length)
        return -(-filled // self.ranks) * self.length

    @property
    def waste(self) -> float:
        """Padding over real places."""
        return self.each * self.ranks / self.places - 1

    def here(self, rank: int) -> int:
        """Real places of a rank: those behind them are padding."""
        return min(max(self.places - rank * self.each, 0), self.each)

    def kept(self, quota: int) -> list[int]:
        """Columns that every rank keeps where each group keeps ``quota``, a short one what it has."""
        split = [divmod(self.here(rank), self.length) for rank in range(self.ranks)]
        return [full * min(quota, self.length) + min(quota, rest) for full, rest in split]


class Shard(NamedTuple):
    """One rank's places.

    Attributes:
        here: Real places.
        start: Number of the first.
        places: S of all ranks.
    """

    here: int
    start: int
    places: int
