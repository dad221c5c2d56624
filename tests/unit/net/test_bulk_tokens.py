"""Who gets a data socket: tokens that are wrong, used, late or another's; the wrong way round; too many; idle ones."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from bulk_pair import DIALLER, LISTENER, Control, Pair, bulk, open_pair, until, whole

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.bulk.messages import INVITATION_BYTES, Answer, Invitation, decode_invitation
from cocoon_p2p.net.external_frames import ExternalHeader, PartKind
from cocoon_p2p.net.transport.listen import DATA_MAGIC as MAGIC
from cocoon_p2p.net.transport.pipe import TcpPipe


async def dial(pair: Pair, greeting: bytes) -> bytes:
    """What the listener answers a socket that begins so; b"" when it closes it."""
    async with await trio.open_tcp_stream("127.0.0.1", pair.behind_port) as stream:
        await stream.send_all(greeting)
        try:
            return await stream.receive_some(64)
        except trio.BrokenResourceError:
            return b""


async def ask(pair: Pair, request: bytes) -> bytes:
    """The listener's answer to the dialler."""
    control = await pair.open_control(pair.dialler, pair.dialler.link.connection)
    await control.write(request)
    answer = await control.read_exactly(1)
    return answer + (await control.read_exactly(INVITATION_BYTES) if (answer, request) == (b"\0", b"\1") else b"")


async def invited(pair: Pair) -> Invitation:
    answer = await ask(pair, b"\1")
    assert answer[0] == Answer.YES
    return decode_invitation(answer[1:])


def test_secrets_show_in_no_text() -> None:
    invitation = Invitation.new()
    for secret in (invitation.token, invitation.key):
        assert secret.hex() not in repr(invitation)
        assert repr(secret) not in repr(invitation)


async def test_a_token_admits_one_socket_once() -> None:
    async with open_pair() as pair:
        invitation = await invited(pair)
        assert await dial(pair, invitation.greeting()) == invitation.proof()
        assert await dial(pair, invitation.greeting()) == b""
        assert pair.listener.counters["data_socket_token_refused"] == 1
        assert len(pair.listener.inlets) == 1


async def test_another_token_gets_no_byte() -> None:
    async with open_pair() as pair:
        await invited(pair)
        assert await dial(pair, MAGIC + bytes(32)) == b""
        assert pair.listener.counters["data_socket_token_refused"] == 1
        assert not pair.listener.inlets


async def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DATA_TOKEN_LIFETIME_S", 0.0)
    async with open_pair() as pair:
        invitation = await invited(pair)
        assert await dial(pair, invitation.greeting()) == b""
        assert not pair.listener.inlets


async def test_tokens_that_nobody_uses_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pair = Pair(nursery)
        await trio.testing.wait_all_tasks_blocked()
        await invited(pair)
        assert len(pair.listener.sockets._tokens) == 1
        await trio.sleep(3 * limits.DATA_TOKEN_LIFETIME_S)
        assert not pair.listener.sockets._tokens
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("greeting", [MAGIC, MAGIC + bytes(31), b""], ids=["magic", "almost", "nothing"])
async def test_who_stops_in_the_greeting_is_dropped_in_time(
    greeting: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near:
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            near.send(greeting)
            began = trio.current_time()
            await pair.listener.sockets.take_pipe(TcpPipe(far, ""))
            assert trio.current_time() - began == pytest.approx(limits.DATA_GREETING_TIMEOUT_S)
            assert near.recv(1) == b""
            assert pair.listener.counters["data_socket_greeting_failed"] == 1
            nursery.cancel_scope.cancel()


async def test_strangers_at_the_same_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DATA_UNCLAIMED_MAX", 3)
    async with open_pair() as pair:
        streams = [await trio.open_tcp_stream("127.0.0.1", pair.behind_port) for _ in range(4)]
        await until(lambda: pair.listener.counters["data_socket_unclaimed_full"] == 1)
        for stream in streams:
            await stream.aclose()
        await until(lambda: pair.listener.counters["data_socket_greeting_failed"] == 3)
        invitation = await invited(pair)
        assert await dial(pair, invitation.greeting()) == invitation.proof()


async def test_somebody_else_at_that_address_is_not_taken_for_the_peer() -> None:
    async with open_pair() as pair:
        pair.path.alter_back = lambda data: bytes(len(data))
        sending, _ = pair.streams()
        sending.expect_bulk(BULK_BYTES_MIN)
        await until(lambda: pair.dialler.sockets.is_off(LISTENER))
        assert not pair.dialler.outlets


async def test_the_socket_of_one_connection_serves_no_other() -> None:
    """What a header names must have been agreed upon with the very peer that sends it."""
    async with open_pair() as pair:
        sending, _ = pair.streams()
        await pair.ready(pair.dialler, sending)
        (inlet,) = pair.listener.inlets
        header = ExternalHeader(101, PartKind.SEALED, inlet.socket_id, 0, 100, 1)  # type: ignore[attr-defined]
        pair.listener.lane().inlet(header)
        async with open_pair() as other:
            other.listener.sockets = pair.listener.sockets  # the same node, another peer's connection
            with pytest.raises(TransportError):
                other.listener.lane().inlet(header)


@pytest.mark.parametrize("wrong", ["unknown socket", "offset", "busy"])
async def test_a_header_that_names_no_place_cuts_the_stream_off(wrong: str) -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        outlet = pair.dialler.outlets[0]
        header = outlet.header(bulk(1))  # type: ignore[attr-defined]
        if wrong == "unknown socket":
            header = header._replace(socket_id=bytes(16))
        elif wrong == "offset":
            header = header._replace(offset=1)
        else:
            pair.listener.lane().inlet(header)
        await sending._raw.write(header.encode(), b"head 1tail")
        with pytest.raises(TransportError) as caught:
            await receiving.receive()
        assert caught.value.code == "CUT_OFF"


@pytest.mark.parametrize("who", ["dialler", "listener"])
async def test_asking_the_wrong_way_round_is_refused(who: str) -> None:
    async with open_pair() as pair:
        node = pair.dialler if who == "dialler" else pair.listener
        control = await pair.open_control(node, node.link.connection)
        await control.write(b"\2" + Invitation.new().encode() if who == "dialler" else b"\1")
        assert await control.read_exactly(1) == bytes((Answer.NOT_HERE,))


@pytest.mark.parametrize("request_bytes", [b"\0", b"\3", b"\xff"])
async def test_a_request_that_is_none_is_the_peers_fault(request_bytes: bytes) -> None:
    async with open_pair() as pair:
        near, far = trio.testing.memory_stream_pair()
        await Control(pair.dialler.link.connection, near).write(request_bytes)
        with pytest.raises(RemoteProtocolError):
            await pair.listener.sockets.answer(Control(pair.listener.link.connection, far))


async def test_a_peer_that_asks_for_more_and_more_is_told_no() -> None:
    async with open_pair() as pair:
        for _ in range(limits.DATA_SOCKETS_PER_CONNECTION_MAX):
            await invited(pair)
        assert await ask(pair, b"\1") == bytes((Answer.FULL,))


async def test_the_sum_of_all_sockets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DATA_SOCKETS_MAX", 1)
    async with open_pair() as pair:
        await invited(pair)
        assert await ask(pair, b"\1") == bytes((Answer.FULL,))


async def test_idle_sockets_are_closed_by_their_sender_without_blame() -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        await sending.send(bulk(1))
        assert await receiving.receive() == whole(bulk(1))
        await until(lambda: pair.dialler.outlets[0].is_clear)  # type: ignore[attr-defined]
        now = trio.current_time()
        pair.dialler.sockets._sweep(now + limits.DATA_IDLE_SENDER_S - 1)
        assert pair.dialler.outlets
        pair.dialler.sockets._sweep(now + limits.DATA_IDLE_SENDER_S + 1)
        assert not pair.dialler.outlets

        def swept() -> bool:
            pair.listener.sockets._sweep(trio.current_time())
            return not pair.listener.inlets

        await until(swept)
        assert not pair.dialler.sockets.is_off(LISTENER)
        await pair.ready(pair.dialler, sending)  # and the next transfer gets another


async def test_a_receiver_closes_what_it_took_all_of_after_a_longer_time() -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        late = trio.current_time() + limits.DATA_IDLE_RECEIVER_S + 1
        await sending.send(bulk(1))
        pair.listener.sockets._sweep(late)
        assert pair.listener.inlets  # a slow reader has still to take it
        assert await receiving.receive() == whole(bulk(1))
        pair.listener.sockets._sweep(late + 1)
        assert not pair.listener.inlets
        await until(lambda: not pair.dialler.outlets)
        assert not pair.dialler.sockets.is_off(LISTENER)


async def test_a_part_that_does_not_come_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoon_p2p.net.bulk.sockets.DATA_STALL_TIMEOUT_S", 0.05)
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        header = pair.dialler.outlets[0].header(bulk(1))  # type: ignore[attr-defined]
        await sending._raw.write(header.encode(), b"head 1tail")
        with pytest.raises(TransportError, match="nothing came"):
            await receiving.receive()
        assert pair.listener.sockets.is_off(DIALLER)


async def test_off_does_not_last_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_pair() as pair:
        pair.speaks = False
        sending, _ = pair.streams()
        sending.expect_bulk(BULK_BYTES_MIN)
        await until(lambda: pair.dialler.sockets.is_off(LISTENER))
        pair.speaks = True
        now = trio.current_time()
        monkeypatch.setattr(trio, "current_time", lambda: now + limits.DATA_OFF_S + 1)
        assert not pair.dialler.sockets.is_off(LISTENER)


async def test_when_the_node_stops_all_sockets_end() -> None:
    async with open_pair() as pair:
        sending, _ = pair.streams()
        await pair.ready(pair.dialler, sending)
        outlet, inlet = pair.dialler.outlets[0], pair.listener.inlets[0]
    assert outlet.is_over  # type: ignore[attr-defined]
    assert inlet.is_over  # type: ignore[attr-defined]
