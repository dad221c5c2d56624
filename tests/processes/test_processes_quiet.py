"""What a node keeps to itself, and how still it is when there is nothing to do."""

from __future__ import annotations

import base64
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from relays import RecordingRelay
from towns import ANYWHERE, NODE_TOML, Town, eventually

pytestmark = [pytest.mark.processes, pytest.mark.slow]

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
IDLE_CORE_MAX = 0.10
IDLE_WINDOW_S = 4.0


def forms(secret: bytes) -> dict[str, bytes]:
    """The ways in which bytes are written down. Of base64 the part that does not depend on where they stand."""
    return {
        "raw": secret,
        "hex": secret.hex().encode(),
        "utf-16": secret.decode("latin-1").encode("utf-16-le"),
        **{f"base64 at {n}": base64.b64encode(bytes(n) + secret)[4:-4] for n in range(3)},
    }


def places(town: Town, relay: RecordingRelay) -> Iterator[tuple[str, bytes]]:
    """Everything that is left of what the nodes did, but for their memory."""
    for file in town.root.rglob("*"):
        if file.is_file():
            yield str(file), file.read_bytes()
    for text in town.texts():
        yield "stdout or stderr", text.encode()
    for direction in relay.passed():
        yield "the wire", direction


def found(secret: bytes, town: Town, relay: RecordingRelay) -> list[str]:
    return [
        f"{form} in {place}"
        for place, data in places(town, relay)
        for form, text in forms(secret).items()
        if text in data
    ]


@pytest.mark.parametrize("tier", ["sealed", "open"])
def test_inputs_and_outputs_are_nowhere(tmp_path: Path, model_files: dict[str, Path], tier: str) -> None:
    """Neither in a file of any home, nor in a log at its most talkative, nor on the wire; whatever the job comes to."""
    word = "Geheimnis" + secrets.token_hex(12)
    rows = np.frombuffer(secrets.token_bytes(64_000), np.uint8).reshape(-1, 320).astype(np.float32)
    with RecordingRelay() as relay, Town(tmp_path / "town") as town:
        town.home("provider", level="debug")
        town.home("bystander", level="debug")
        # It only dials, or the provider might dial it, past the relay.
        town.home("client", level="debug", toml=NODE_TOML.replace(f'"{ANYWHERE}"', ""))
        models = [part for name in ("letters", "two", "copy-string") for part in ("--model", str(model_files[name]))]
        provider = town.start("provider", *models)
        relay.target = ("127.0.0.1", int(provider.address.split("/")[4]))
        client = town.launch("client", bootstrap=[f"{relay.address}/p2p/{provider.peer_id}"])
        town.launch("bystander", bootstrap=[provider.address]).wait_ready()
        client.wait_ready()

        client.run("letters", text=[f"a {word} b"], tier=tier)
        text = np.array([f"{word} {number}" for number in range(50)])
        _, copied = client.run("copy-string", {"x": text}, tier=tier)
        assert copied["y"].tolist() == text.tolist()
        _, outputs = client.run("two", {"a": rows, "b": rows}, tier=tier)
        assert np.array_equal(outputs["sum"], rows + rows)
        job = town.background(client.run, "letters", text=[word] * 5000, tier=tier, timeout_s=0.001)  # one that fails
        assert job.exception(10) is not None

        passed = sum(map(len, relay.passed()))
        assert passed > 4 * rows.nbytes, f"{passed} bytes: the jobs went another way"
        everywhere = [place for place, data in places(town, relay) if client.peer_id.encode() in data]
        assert any(str(provider.home) in place for place in everywhere), "what is written down can be found"
        assert any("stderr" in place for place in everywhere), "the logs are talkative"
        for secret in (word.encode(), rows[0, :16].tobytes(), outputs["sum"][-1, -16:].tobytes()):
            assert found(secret, town, relay) == []
    assert found(word.encode(), town, relay) == [], "nor after they ended"


def cpu_s(pids: set[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_A_SECOND


def test_an_idle_node_among_four_peers_is_still(
    tmp_path: Path, model_files: dict[str, Path], record_property: pytest.RecordProperty
) -> None:
    with Town(tmp_path) as town:
        join = [town.start("bootstrap").address]
        for name in ("one", "two", "three"):
            town.launch(name, "--model", str(model_files["matmul"]), bootstrap=join)
        town.launch("client", bootstrap=join)
        for node in town.nodes.values():
            node.wait_ready()
        client = town.nodes["client"]
        eventually(lambda: len(client.offers("matmul")) == 3, "the client knows all providers")
        x = np.ones((1, 4), np.float32)
        for name in ("one", "two", "three"):
            client.run("matmul", {"x": x}, provider=town.nodes[name].peer_id)  # connects it to each
        assert client.status()["peers"] == 4
        pids = set(town.processes())
        assert len(pids) >= 5 + 3 * 2, "five nodes; three fork servers with a worker each"
        for pid in pids:
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 +0 ", limits, re.M), "a core file would hold what jobs say"
        before, started = {pid: cpu_s({pid}) for pid in pids}, time.monotonic()
        time.sleep(IDLE_WINDOW_S)  # the window of the measurement
        window = time.monotonic() - started
        shares = {pid: (cpu_s({pid}) - before[pid]) / window for pid in pids}
        for name, node in town.nodes.items():
            record_property(f"idle_core_share_{name}", round(shares[node.process.pid], 4))
            print(f"{name}: {shares[node.process.pid]:.2%} of a core when idle")
            assert shares[node.process.pid] < IDLE_CORE_MAX, name
        of_others = sum(shares.values()) - sum(shares[node.process.pid] for node in town.nodes.values())
        assert of_others < IDLE_CORE_MAX, "fork servers and workers"
