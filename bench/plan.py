"""How long and how often is measured, and the words about it on stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    """Of measuring, for each side of a comparison, over all rounds."""
    rounds: int
    """Sides take turns in each round (A B, A B, …), so that drift of the machine hits both."""
    megabytes: int
    """Of the bulk benchmark's tensor, 10^6 bytes each."""
    folder: Path
    """For homes of nodes and models; removed afterwards."""
    peers: int = 1000
    """Of the simulated market."""
    minutes: float = 10.0
    """Virtual ones."""
    seed: int = 1

    @property
    def seconds_a_round(self) -> float:
        return self.seconds / self.rounds


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
