"""Stop strings: the text of an answer up to the first of them, with what may be the beginning of one held back."""

from __future__ import annotations

from collections.abc import Sequence

from cocoon_p2p.execution.generation.tokens import Detokenizer, TokenCodec


class StopFinder:
    """What it gives out follows from what it was given, piece by piece."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What can be shown now. With `found`, the answer ends behind it."""
        if not self._stops or self.found:
            return "" if self.found else text
        text = self._held + text
        at = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.found, self._held = True, ""
            return text[:at]
        waits = self._beginning(text)
        self._held = text[len(text) - waits :]
        return text[: len(text) - waits]

    def rest(self) -> str:
        """What was held back, at the end of an answer that ends otherwise."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self, text: str) -> int:
        """How many of the last characters are how a stop string begins."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[len(text) - size :]) for stop in self._stops):
                return size
        return 0


class AnswerText:
    """From tokens to what is shown of them."""

    def __init__(self, codec: TokenCodec, stops: Sequence[str], *, shown: frozenset[int] = frozenset()) -> None:
        """`shown`: special tokens that are part of the text."""
        self._codec = codec
        self._characters = Detokenizer(codec)
        self._stops = StopFinder(stops)
        self._shown = shown

    @property
    def stopped(self) -> bool:
        return self._stops.found

    def add(self, token: int) -> str:
        text = self._characters.add(token)
        if token in self._shown:
            text += "" if self._codec.bytes_of(token) else self._codec.text_of(token)
        return self._stops.add(text)

    def rest(self) -> str:
        return self._stops.rest()
