"""What `up` says and how it takes signals; real processes are in tests/processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from cocoon_p2p.cli.serving import serving_pairs
from cocoon_p2p.cli.up import INTERRUPTED, _Ending, ending_signals, model_or_path, ready_pairs

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
STATUS: dict[str, Any] = {
    "peer_id": PEER,
    "settlement_network": 0,
    "models": [
        {
            "name": "minilm",
            "model_id": "cd" * 32,
            "price_base": 100_000,
            "price_per_item": 10_000,
            "device": "cpu",
            "device_reason": "no GPU was found",
        }
    ],
}


def test_a_node_that_crashes_leaves_no_core_file() -> None:
    program = (
        "import resource; from cocoon_p2p.cli.up import without_core_files; without_core_files(); "
        "print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == "(0, 0)"


def test_a_provider_says_what_price_device_why_and_how_to_join() -> None:
    addresses = [f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}", f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}"]
    assert ready_pairs(STATUS, addresses, " --home /h") == [
        ("peer id", PEER),
        ("listening", addresses[0]),
        ("", addresses[1]),
        ("serving", "minilm (cdcdcdcd) for 0.0001 GRAM a job + 0.00001 GRAM an item"),
        ("", "on cpu: no GPU was found"),
        ("money", "test money, no value"),
        ("others join", f"cocoon-node up --bootstrap {addresses[1]}"),
        ("", "or by what `cocoon-node invite --home /h` shows"),
        ("use it", "cocoon-node offers --home /h"),
        ("", "cocoon-node run MODEL … --home /h"),
    ]


def test_a_client_says_that_it_serves_nothing_and_listens_nowhere() -> None:
    pairs = dict(ready_pairs(STATUS | {"models": []}, [], ""))
    assert pairs["listening"].startswith("nowhere")
    assert pairs["serving"].startswith("nothing")
    assert "others join" not in pairs


def test_a_node_in_a_private_network_says_which() -> None:
    network = {"private": True, "name": "büro", "fingerprint": "ab12"}
    assert dict(ready_pairs(STATUS | {"network": network}, [], ""))["network"] == (
        "private network büro, fingerprint ab12"
    )
    assert "network" not in dict(ready_pairs(STATUS | {"network": {"private": False}}, [], ""))


def test_into_a_private_network_an_address_is_not_enough() -> None:
    address = f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}"
    network = {"private": True, "name": None, "fingerprint": "ab12"}
    pairs = ready_pairs(STATUS | {"network": network}, [address], " --home /h")
    at = [name for name, _ in pairs].index("others join")
    assert pairs[at][1] == "by what `cocoon-node invite --with-network-key --home /h` shows"
    assert pairs[at + 1][1] == f"or, with the network's key: cocoon-node up --bootstrap {address}"


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("the configuration asks for the CPU", None),
        (
            "TensorrtExecutionProvider does not work: libnvinfer; CUDAExecutionProvider does not work: a; b",
            "no accelerator works here (status --verbose says why)",
        ),
        (
            "a probe ran on CUDAExecutionProvider; TensorrtExecutionProvider does not work: libnvinfer",
            "a probe ran on CUDAExecutionProvider",
        ),
    ],
)
def test_why_a_device_was_chosen_is_one_short_line(reason: str, short: str | None) -> None:
    (model,) = STATUS["models"]
    status = STATUS | {"models": [model | {"device_reason": reason}]}
    assert serving_pairs(status)[1] == ("", f"on cpu: {short or reason}")
    assert serving_pairs(status, verbose=True)[1] == ("", f"on cpu: {reason}")


def test_a_node_that_serves_nobody_is_not_told_to_add_models() -> None:
    pairs = dict(ready_pairs(STATUS | {"models": [], "serve": False}, [], ""))
    assert pairs["serving"] == "nothing: [provider] serve is false"


def test_the_device_of_several_models_is_said_once() -> None:
    (model,) = STATUS["models"]
    models = [model, model | {"device": "cuda:0"}, model | {"name": "other"}]
    pairs = ready_pairs(STATUS | {"models": models}, [], "")
    assert [value.partition(" (")[0] for name, value in pairs[2:-2] if name in ("", "serving")] == [
        "minilm",
        "other",
        "on cpu: no GPU was found",
        "minilm",
        "on cuda:0: no GPU was found",
    ]


def test_models_are_paths_when_there_is_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"")
    assert model_or_path("m.onnx") == str(tmp_path / "m.onnx")
    assert model_or_path("minilm") == "minilm"
    assert model_or_path("m" * 300) == "m" * 300


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
async def test_a_signal_during_the_start_cancels_it(number: signal.Signals, status: int) -> None:
    ending = _Ending()
    send, receive = trio.open_memory_channel[int](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.watch, receive)
        with ending.opening:
            await send.send(number)
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    assert ending.opening.cancelled_caught
    assert ending.status == status


async def test_a_signal_later_asks_the_node_to_end_by_itself() -> None:
    ending = _Ending()
    ending.ready = True
    send, receive = trio.open_memory_channel[int](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.watch, receive)
        with ending.opening:
            await send.send(signal.SIGINT)
            await ending.stop.wait()
        nursery.cancel_scope.cancel()
    assert not ending.opening.cancel_called
    assert ending.status == 0


async def test_a_closed_terminal_is_one_signal_however_often_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda pid, number: ended.append((pid, number)))
    ending = _Ending()
    send, receive = trio.open_memory_channel[int](3)
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGHUP):
        send.send_nowait(number)
    send.close()
    with pytest.raises(StopAsyncIteration):
        await ending.watch(receive)
    assert ending.stop.is_set()
    assert ended == []
    assert capsys.readouterr().err == "", "writing to a terminal that is gone raises OSError"


def test_nohup_keeps_a_node_alive() -> None:
    assert signal.SIGHUP in ending_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in ending_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
