"""Which piece of a model to ask for next: one that few holders have. Sets of pieces are ints, a bit a piece.

Cohen, Incentives Build Robustness in BitTorrent (2003), §2.4: a piece that few have may soon be had by nobody, and who has
it has something to give. Among those equally rare each fetcher begins elsewhere, and then goes on in order, for the sake of
disks.
"""

from __future__ import annotations


class Rarity:
    """How many holders each of `pieces` pieces has: level r is the set of those that r holders have."""

    def __init__(self, pieces: int) -> None:
        self._levels = [(1 << pieces) - 1]

    def add(self, held: int) -> None:
        """Another holder of these pieces, or one more that a holder has."""
        risen = 0
        for level, pieces in enumerate(self._levels):
            moved = pieces & held
            self._levels[level] = (pieces ^ moved) | risen
            risen = moved
        if risen:
            self._levels.append(risen)

    def remove(self, held: int) -> None:
        """A holder of these is gone."""
        fallen = 0
        for level in range(len(self._levels) - 1, 0, -1):
            moved = self._levels[level] & held
            self._levels[level] = (self._levels[level] ^ moved) | fallen
            fallen = moved
        self._levels[0] |= fallen
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()

    def pick(self, candidates: int, start: int) -> int | None:
        """One of the rarest of `candidates`: the first from `start` on, or from 0 on where there is none. None: there are no
        candidates."""
        for pieces in self._levels:
            rarest = pieces & candidates
            if rarest:
                return _first_from(rarest, start)
        return None


def _first_from(pieces: int, start: int) -> int:
    later = pieces >> start
    if later:
        return start + _lowest(later)
    return _lowest(pieces)


def _lowest(pieces: int) -> int:
    return (pieces & -pieces).bit_length() - 1
