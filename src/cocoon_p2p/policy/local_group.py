"""Who of a local network fetches which piece from outside, so that each comes in once (protocols/blob/1 §6)."""

from __future__ import annotations

from collections.abc import Collection


def share_of(member: bytes, others: Collection[bytes], pieces: int, stage: int = 0) -> int:
    """The set of pieces, of `pieces` in all, that `member` fetches from outside while it and `others` fetch the same model.
    Members are peer ids as bytes; all come to the same division who see the same members. At a later `stage`, when who has
    done his share helps the others, so that two who help do not take the same: of N the one at place k those with
    ⌊i ÷ N^stage⌋ mod N = k."""
    # SPEC blob/1 §6
    group = sorted({member, *others})
    count = len(group)
    run: int = count**stage
    if count == 1 or run >= pieces:
        return (1 << pieces) - 1
    # `run` ones at each multiple of the period
    period, place = run * count, group.index(member) * run
    times = pieces // period + 1
    every = ((1 << period * times) - 1) // ((1 << period) - 1)
    return ((every * ((1 << run) - 1)) << place) & ((1 << pieces) - 1)
