"""`cocoon-node evidence`: files of wrong answers, checked with the real engine."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.cli import main
from cocoon_p2p.drivers.evidence import Answered, EvidenceFolder, accuse
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.proto.job_client import Transcript
from cocoon_p2p.sealing.envelope import RequestSecrets
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.tensors import Payload, encode_payload
from cocoon_p2p.testing import models
from cocoon_p2p.wire.evidence import EvidenceKind
from cocoon_p2p.wire.job import RECEIPT_DOMAIN, Receipt, ReceiptBody
from cocoon_p2p.wire.seal import NO_KEY_ID, SUITE_XWING, EnvelopeHeader, ResponseHeader

CLIENT, PROVIDER = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2))
JOB = JobId(b"j" * 16)
X = np.float32([[1, 2, 3, 4]])
RIGHT = X @ np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def matmul(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelId]:
    """The file of a model that computes RIGHT of X, and its id."""
    folder = tmp_path_factory.mktemp("matmul")
    source = models.matmul_model(folder)
    return source, ModelRegistry(folder / "home").add(source).model_id


def container(payload: Payload) -> bytes:
    return b"".join(bytes(piece) for piece in encode_payload(payload))


def accusation(model_id: ModelId, answer: np.ndarray) -> bytes:
    """As a client makes it of a sealed job whose answer was `answer`."""
    given, output = to_payload({"x": X}), to_payload({"y": answer})
    secrets, response_header = RequestSecrets.draw(), ResponseHeader(JOB, os.urandom(32)).encode()
    header = EnvelopeHeader(
        suite=SUITE_XWING,
        key_id=NO_KEY_ID,
        job_id=JOB,
        model_id=model_id,
        provider=PROVIDER.peer_id,
        max_total=10,
        expires_at_ms=1,
        payload_bytes=len(container(given)),
        items=1,
        commitment=secrets.commitment,
    ).encode()
    sent = bytes(secrets.payload_sealer(header).seal(container(given), True))
    received = bytes(secrets.response_sealer(header, response_header).seal(container(output), True))
    body = ReceiptBody(
        provider=PROVIDER.peer_id,
        client=CLIENT.peer_id,
        job_id=JOB,
        model_id=model_id,
        tier=Tier.SEALED,
        quote_hash=bytes(32),
        price=10,
        items=1,
        input_hash=hashlib.sha256(header + sent).digest(),
        output_hash=hashlib.sha256(response_header + received).digest(),
        queue_us=0,
        execute_us=1,
        finished_at_ms=1,
    ).encode()
    receipt = Receipt(JOB, body, PROVIDER.sign(RECEIPT_DOMAIN, body), CLIENT.sign(RECEIPT_DOMAIN, body))
    evidence = accuse(
        CLIENT,
        Answered(model_id, given, output, Transcript(header, secrets, response_header, receipt)),
        to_payload({"y": RIGHT + 100}),
        kind=EvidenceKind.QUORUM,
        tolerance_millionths=5000,
        made_at_ms=1_800_000_000_000,
    )
    assert evidence is not None
    return evidence


@pytest.mark.slow
def test_a_wrong_answer_is_proven_by_running_the_model(
    home: Path, matmul: tuple[Path, ModelId], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, model_id = matmul
    file = tmp_path / "x.evidence"
    file.write_bytes(accusation(model_id, RIGHT + 10))
    assert main(["evidence", "check", str(file), "--model", str(source)]) == 0
    out = capsys.readouterr().out
    assert "yes  the provider signed for this output" in out
    assert "the answer is wrong: deviation 0.11 of 0.005 allowed" in out
    file.write_bytes(accusation(model_id, RIGHT * np.float32(1 + 1e-6)))
    assert main(["evidence", "check", str(file), "--model", str(source), "--json"]) == 1
    row = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["allowed"]) == ("right", 0.005)
    assert 0 < row["deviation"] < 1e-5


def test_without_the_model_nothing_is_proven(
    home: Path, matmul: tuple[Path, ModelId], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.evidence"
    file.write_bytes(accusation(matmul[1], RIGHT + 10))
    assert main(["evidence", "check", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "cannot say: the model is not here" in out
    assert matmul[1] in err


def test_an_altered_file_proves_nothing(
    home: Path, matmul: tuple[Path, ModelId], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(accusation(matmul[1], RIGHT + 10))
    data[-1] ^= 1
    file = tmp_path / "x.evidence"
    file.write_bytes(data)
    assert main(["evidence", "check", str(file)]) == 1
    out = capsys.readouterr().out
    assert "NO   the accuser signed it" in out
    assert "this proves nothing" in out


@pytest.mark.parametrize("action", ["check", "show"])
def test_a_file_that_is_none(home: Path, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.evidence"
    file.write_bytes(b"something else")
    assert main(["evidence", action, str(file)]) == 2
    assert main(["evidence", action, str(tmp_path / "missing")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "holds no evidence" in err


def test_list_and_show(home: Path, matmul: tuple[Path, ModelId], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "list"]) == 0
    assert "no evidence here" in capsys.readouterr().err
    path = EvidenceFolder(home / "evidence").keep(JOB, accusation(matmul[1], RIGHT + 10))
    assert main(["evidence", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["evidence"]
    assert (row["provider"], row["accuser"], row["file"]) == (PROVIDER.peer_id, CLIENT.peer_id, str(path))
    assert main(["evidence"]) == 0
    assert JOB.hex()[:12] in capsys.readouterr().out
    assert main(["evidence", "show", str(path)]) == 0
    out = capsys.readouterr().out
    assert PROVIDER.peer_id in out
    assert "most of several providers" in out
