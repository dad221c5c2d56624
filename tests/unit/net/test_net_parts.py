"""The small parts: supervisor, feeds, multistream, addresses, the address book."""

from __future__ import annotations

import contextlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.errors import EndOfStream, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX
from cocoon_p2p.net import address_book, multistream
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import (
    Address,
    address_from_bytes,
    address_to_bytes,
    parse_address,
    parse_dialable,
    resolve_wildcards,
)
from cocoon_p2p.net.feeds import Feed
from cocoon_p2p.net.port import Stream
from cocoon_p2p.net.supervisor import (
    Counters,
    call_guarded,
    describe,
    foreign_errors,
    open_service_nursery,
    run_guarded,
    run_handler,
)

PEER = PeerId("12D3KooWPcfGdBCrdxX9nqGAdPAdkPMqfKEDjbZWGA4UFBJuY4rP")


class Ended:
    """A stream that remembers how it ended."""

    peer = PEER
    protocol = "/test/1"

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def aclose(self) -> None:
        self.ends.append("closed")

    async def reset(self) -> None:
        self.ends.append("reset")


@pytest.mark.parametrize(
    ("error", "ends", "counter"),
    [
        (None, ["closed"], None),
        (EndOfStream(), ["closed"], None),
        (TransportError("gone", outcome_known=False), ["reset"], "handler_disconnected"),
        (RemoteProtocolError("garbage"), ["reset"], "handler_peer_fault"),
        (KeyError("bug"), ["reset"], "handler_failed"),
        (ExceptionGroup("g", [KeyError("bug"), TransportError("x", outcome_known=True)]), ["reset"], "handler_failed"),
        (ExceptionGroup("g", [TransportError("x", outcome_known=True)]), ["reset"], "handler_disconnected"),
    ],
)
async def test_run_handler(error: Exception | None, ends: list[str], counter: str | None) -> None:
    async def handler(stream: Stream) -> None:
        if error is not None:
            raise error

    stream, counters = Ended(), Counters()
    await run_handler(handler, stream, counters)  # type: ignore[arg-type]
    assert stream.ends == ends
    assert dict(counters) == ({counter: 1} if counter else {})


async def test_run_handler_lets_cancellation_and_exits_through() -> None:
    async def handler(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    stream = Ended()
    with trio.move_on_after(0.01) as scope:
        await run_handler(handler, stream, Counters())  # type: ignore[arg-type]
    assert scope.cancelled_caught
    assert stream.ends == ["reset"]

    async def interrupted(stream: Stream) -> None:
        raise BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError("x")])

    with pytest.raises(BaseExceptionGroup) as caught:
        await run_handler(interrupted, Ended(), Counters())  # type: ignore[arg-type]
    assert caught.group_contains(KeyboardInterrupt)


async def test_run_guarded(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("text")

    counters = Counters()
    assert not await run_guarded("job", fail, counters)
    assert counters == {"job_failed": 1}
    assert "ZeroDivisionError" in caplog.text
    assert await run_guarded("job", trio.lowlevel.checkpoint, counters)


def test_call_guarded() -> None:
    counters = Counters()
    assert call_guarded("sum", lambda: 1 + 1, 0, counters) == 2
    assert call_guarded("sum", lambda: 1 // 0, 7, counters) == 7
    assert counters == {"sum_failed": 1}


def test_foreign_errors_are_translated() -> None:
    with (
        pytest.raises(TransportError, match="dial: Connection refused") as caught,
        foreign_errors("dial", outcome_known=True, code="X"),
    ):
        raise ConnectionRefusedError(111, "Connection refused")
    assert (caught.value.code, caught.value.outcome_known) == ("X", True)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    with pytest.raises(RemoteProtocolError), foreign_errors("x", outcome_known=True):
        raise RemoteProtocolError("ours")


def test_describe_is_one_line() -> None:
    assert describe(ValueError("one\ntwo")) == "one"
    assert describe(ValueError()) == "ValueError"
    assert describe(ExceptionGroup("g", [ValueError("a"), OSError(1, "b")])) == "a; b"
    assert describe(trio.TooSlowError()) == "timed out"


async def test_a_service_nursery_does_not_wrap_the_bodys_errors() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_service_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ZeroDivisionError
    with trio.move_on_after(0.01) as scope:
        async with open_service_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_service_nursery_lets_the_real_error_out() -> None:
    """The body has a nursery of its own, so that its cancellation comes as a group."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_service_nursery() as service, trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            service.start_soon(fail)
    assert caught.group_contains(ZeroDivisionError)
    assert not caught.group_contains(trio.Cancelled)


async def test_a_service_nursery_lets_both_errors_out() -> None:
    """What the body makes of its cancellation does not hide what the cancellation came of."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_service_nursery() as nursery:
            nursery.start_soon(fail)
            try:
                await trio.sleep_forever()
            finally:
                raise TransportError("gone", outcome_known=False)
    assert caught.group_contains(ZeroDivisionError)
    assert caught.group_contains(TransportError)


async def test_a_slow_subscriber_loses_the_oldest() -> None:
    feed: Feed[int] = Feed(3)
    feed.publish(0)  # nobody listens yet
    with feed.subscribe() as subscription:
        for i in range(1, 6):
            feed.publish(i)
        assert [await anext(subscription) for _ in range(3)] == [3, 4, 5]
        assert subscription.dropped == 2
        with trio.move_on_after(0):
            await anext(subscription)
        feed.publish(6)
        assert await anext(subscription) == 6
    assert len(feed) == 0


# --- multistream -----------------------------------------------------------------------------------------------------


class Wire:
    """Bytes to read, and what was written."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.written = b""

    async def read_exactly(self, size: int) -> bytes:
        if size > len(self.data):
            raise TransportError("end", outcome_known=True)
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    async def write(self, data: bytes) -> None:
        self.written += data


@given(st.integers(0, 2**63 - 1))
def test_varints(number: int) -> None:
    wire = Wire(multistream.encode_varint(number))
    assert trio.run(multistream.read_varint, wire) == number
    assert wire.data == b""


@given(st.binary(max_size=200))
def test_any_bytes_give_a_protocol_or_one_of_two_errors(data: bytes) -> None:
    async def attempt() -> None:
        with contextlib.suppress(TransportError, RemoteProtocolError):
            await multistream.accept(Wire(data), ["/a/1"])

    trio.run(attempt)


async def test_proposals_are_tried_in_order() -> None:
    lines = [multistream.HEADER, b"na\n", b"/b/1\n"]
    wire = Wire(b"".join(map(multistream.encode_prefixed, lines)))
    assert await multistream.propose(wire, "/a/1", "/b/1") == "/b/1"
    asked = [multistream.HEADER, b"/a/1\n", b"/b/1\n"]
    assert wire.written == b"".join(map(multistream.encode_prefixed, asked))


async def test_accepting_after_ls_and_an_unknown_name() -> None:
    lines = [multistream.HEADER, b"ls\n", b"/x\n", b"/a/1\n"]
    wire = Wire(b"".join(map(multistream.encode_prefixed, lines)))
    assert await multistream.accept(wire, ["/a/1", "/b/1"]) == "/a/1"


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "047f000001060fa1"),
        ("/ip6/::1/tcp/80", "2900000000000000000000000000000001060050"),
        ("/dns4/example.org/tcp/443", "360b6578616d706c652e6f72670601bb"),
    ],
)
def test_addresses_as_text_and_bytes(text: str, raw: str) -> None:
    address = parse_address(text)
    assert str(address) == text
    assert address_to_bytes(address).hex() == raw
    assert address_from_bytes(bytes.fromhex(raw)) == address


def test_the_librarys_multiaddr_agrees() -> None:
    from multiaddr import Multiaddr

    relayed = f"/ip4/1.2.3.4/tcp/5/p2p/{PEER}/p2p-circuit"
    for text in (
        "/ip4/1.2.3.4/tcp/5",
        "/ip6/2001:db8::7/tcp/65535",
        "/dns/a.example/tcp/1",
        "/dns6/x/tcp/9/ws",
        relayed,
    ):
        assert Multiaddr(text).to_bytes() == address_to_bytes(parse_address(text))
        assert address_from_bytes(Multiaddr(f"{text}/p2p/{PEER}").to_bytes()) == parse_address(text)
    whole = Multiaddr(f"/ip4/1.2.3.4/tcp/5/p2p/{PEER}").to_bytes()
    assert address_from_bytes(whole) == parse_address("/ip4/1.2.3.4/tcp/5")


@given(st.binary(max_size=64))
def test_any_bytes_give_an_address_or_none(raw: bytes) -> None:
    address = address_from_bytes(raw)
    if address is not None:
        assert parse_address(str(address)) == address


@given(st.text(max_size=80))
def test_any_text_gives_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    ["", "/ip4/1.2.3/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/tcp/65536", "/ip4/1.2.3.4/tcp/1/p2p/short",
     "/ip4/1.2.3.4/tcp/1/wss", "/ip4/1.2.3.4/tcp/1/p2p-circuit", "/ip4/1.2.3.4/tcp/²", "/dns4/a b/tcp/1", "/p2p-circuit", "/ip4/1.2.3.4/tcp/1/ws/x"],
)  # fmt: skip
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


def test_what_can_be_dialled() -> None:
    texts = ["/ip4/1.2.3.4/tcp/1", "nonsense", "/ip4/0.0.0.0/tcp/1", "/ip4/1.2.3.4/tcp/0", "/ip4/1.2.3.4/tcp/1"]
    assert parse_dialable(texts) == [Address("ip4", "1.2.3.4", 1)]


def test_wildcards_are_resolved() -> None:
    resolved = resolve_wildcards([parse_address("/ip4/0.0.0.0/tcp/7")])
    assert resolved[-1] == "/ip4/127.0.0.1/tcp/7"
    assert not any("0.0.0.0/" in address for address in resolved)
    assert resolve_wildcards([parse_address("/ip4/10.1.2.3/tcp/7")]) == ("/ip4/10.1.2.3/tcp/7",)


def test_the_address_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_book, "ADDRESS_BOOK_PEERS_MAX", 2)
    book = AddressBook()
    book.add(PEER, [f"/ip4/1.2.3.{i}/tcp/1" for i in range(100)])
    assert len(book.get(PEER)) == ADDRESSES_PER_ANNOUNCEMENT_MAX
    book.add(PEER, ["/ip4/9.9.9.9/tcp/1", "junk"])
    assert str(book.get(PEER)[0]) == "/ip4/9.9.9.9/tcp/1"
    for name in ("b", "c"):
        book.add(PeerId(name), ["/ip4/1.1.1.1/tcp/1"])
    assert book.get(PEER) == []
    assert len(book.get(PeerId("c"))) == 1
