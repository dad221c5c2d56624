"""What pipes have in common that put bytes into another form and send them through a pipe below: a cipher, frames."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.transport.pipe import Pipe, Transport, finishes_sends


class CodedPipe(ABC):
    """The sending half.

    What was once encoded must go out, for a cipher or a frame has counted it: when the system takes only a part, the rest
    is kept, and is what the next send begins with. So whoever is told that a part was taken goes on with the rest of the
    same data (`Pipe.send_now`).
    """

    relayed: bool
    transport: Transport

    def __init__(self, below: Pipe, address: str) -> None:
        self.address = address
        self.relayed = below.relayed
        self.transport = below.transport
        self.finishes_sends = finishes_sends(below)
        self._below = below
        self._lead = b""
        """Goes out before anything else; stands for no data."""
        self._ahead: Bytes = b""
        self._ahead_size = 0
        """How many bytes of the data to come `_ahead` stands for."""

    @property
    def below(self) -> Pipe:
        """What it runs on."""
        return self._below

    def send_now(self, data: Bytes) -> int:
        encoded = self._to_send(data)
        lead = len(self._lead)
        taken = self._below.send_now(self._lead + bytes(encoded) if lead else encoded)
        self._lead = self._lead[taken:]
        self._ahead = memoryview(encoded)[max(0, taken - lead) :]
        accepted = max(0, len(data) - len(self._ahead))
        self._ahead_size = len(data) - accepted
        return accepted

    async def send_all(self, data: Bytes) -> None:
        """A cancelled one is finished by the pipe below if that `finishes_sends`."""
        encoded = self._to_send(data)
        if self._lead:
            encoded, self._lead = self._lead + bytes(encoded), b""
        self._ahead, self._ahead_size = b"", 0
        await self._below.send_all(encoded)

    def abort(self) -> None:
        self._below.abort()

    @abstractmethod
    def _encode(self, data: Bytes) -> Bytes:
        """Counts as sent. The last bytes stand for the last bytes of the data, one for one."""

    def _to_send(self, data: Bytes) -> Bytes:
        if not self._ahead_size:
            return self._encode(data)
        rest = memoryview(data)[self._ahead_size :]
        return bytes(self._ahead) + bytes(self._encode(rest)) if rest else self._ahead
