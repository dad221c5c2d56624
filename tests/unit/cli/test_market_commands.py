"""`market history | export | replay` on the files that a node leaves behind."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from cocoon_p2p.cli import main
from cocoon_p2p.cli.parser import parse
from cocoon_p2p.home import Home
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.store.market_journal import MarketSample, open_market_journal
from cocoon_p2p.wire.capacity import (
    CAPACITY_DOMAIN,
    Announcement,
    DeviceClass,
    Offer,
    SignedAnnouncement,
    TierPrice,
    Unit,
)

Captured = pytest.CaptureFixture[str]
MODEL, OTHER = ModelId("3b5a1c2d" * 8), ModelId("77aa1c2d" * 8)
PROVIDERS = [IdentityKey.from_seed(bytes([number]) * 32) for number in (1, 2, 3)]
HOUR_MS = 3_600_000


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COCOON_PASSPHRASE", "COCOON_PASSPHRASE_FILE", "COCOON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    Home(tmp_path / "home").init()
    return tmp_path / "home"


def announced(key: IdentityKey, at_ms: int, base: int, *, signer: IdentityKey | None = None) -> bytes:
    prices = (TierPrice(Tier.OPEN, base, 10), TierPrice(Tier.SEALED, base, 10))
    offer = Offer(MODEL, "minilm", Unit.ITEM, prices, 64, 10_000, 4, 3, 0, "cpu", DeviceClass.CPU, 2000, 0)
    body = Announcement(key.peer_id, at_ms, at_ms, at_ms + 60_000, ("/memory/1",), "", (0,), "de", (offer,)).encode()
    return SignedAnnouncement(body, (signer or key).sign(CAPACITY_DOMAIN, body)).encode()


def keep_history(home: Path, *, hours: int = 3, forged: bool = False) -> int:
    """A sample a minute, and each provider's announcement; the time of the newest, ten seconds ago."""
    now_ms = int(time.time() * 1000) - 10_000
    with open_market_journal(home / "market.db") as journal:
        times = range(now_ms - hours * HOUR_MS, now_ms + 1, 60_000)
        journal.add_samples(
            [MarketSample(at, MODEL, "minilm", Tier.SEALED, 3, 9, 12, 100_000 + number * 500, 120_000 + number * 500)
             for number, at in enumerate(times) if not 60 <= number < 90]
        )  # fmt: skip
        for number, at in enumerate(times):
            key = PROVIDERS[number % 3]
            journal.append(at, announced(key, at - 500, 1000 + number))
        if forged:
            journal.append(now_ms, announced(PROVIDERS[0], now_ms, 1, signer=PROVIDERS[1]))
    return now_ms


# --- the command line ---


@pytest.mark.parametrize(
    ("words", "function"),
    [
        (["market", "minilm"], "run_history"),
        (["market", "minilm", "--history"], "run_history"),
        (["market", "--history", "minilm", "--hours", "2"], "run_history"),
        (["--home", "/h", "market", "--json", "minilm"], "run_history"),
        (["market", "--home", "/h", "minilm"], "run_history"),
        (["market", "--home", "/h", "replay", "f"], "run_replay"),
        (["market", "export", "f", "--json"], "run_export"),
    ],
)
def test_a_model_may_stand_where_an_action_does(words: list[str], function: str) -> None:
    assert parse(words).function == f"cocoon_p2p.cli.market:{function}"


@pytest.mark.parametrize(
    "words", [["market"], ["market", "m", "--hours", "0"], ["market", "replay", "f", "--at", "noon"]]
)
def test_what_is_mistyped(words: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    assert "cocoon-node: error:" in capsys.readouterr().err


def test_options_may_stand_before_the_model() -> None:
    options = parse(["market", "--json", "--home", "/h", "minilm", "--history"])
    assert (options.json, options.home, options.model, options.tier) == (True, "/h", "minilm", "sealed")


def test_moments() -> None:
    assert parse(["market", "replay", "f", "--at", "1772364600000"]).at == 1_772_364_600_000
    assert parse(["market", "replay", "f", "--at", "2026-03-01T12:30+01:00"]).at == 1_772_364_600_000
    local = time.mktime((2026, 3, 1, 12, 30, 0, 0, 0, -1))
    assert parse(["market", "replay", "f", "--at", "2026-03-01T12:30"]).at == local * 1000


# --- history ---


def test_history_in_the_terminal(home: Path, capsys: Captured) -> None:
    keep_history(home)
    assert main(["market", "minilm", "--history"]) == 0
    out, err = capsys.readouterr()
    assert max(map(len, (out + err).splitlines())) <= 80
    assert "\x1b" not in out
    assert "minilm 3b5a1c2d, sealed: GRAM for a job of one item" in out
    assert "slots: ⣀⣀ free, ∙∙ in all" in out
    assert re.search(r"0\.0001\d*┤", out)
    assert "best 0.00019 GRAM, median 0.00021 GRAM\n" in err
    assert "9 of 12 slots free at 3 providers\n" in err


def test_history_as_json(home: Path, capsys: Captured) -> None:
    now_ms = keep_history(home)
    assert main(["market", "3b5a1c2d", "--hours", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["model_id"], row["name"], row["tier"], row["unit"]) == (MODEL, "minilm", "sealed", "item")
    assert 59 <= len(row["samples"]) <= 60
    assert row["samples"][-1] == {
        "at_ms": now_ms, "providers": 3, "slots_free": 9, "slots_total": 12, "best_nanogram": 190_000,
        "median_nanogram": 210_000,
    }  # fmt: skip


def test_history_as_a_picture(home: Path, capsys: Captured) -> None:
    keep_history(home)
    assert main(["market", "minilm", "--png", "prices.png"]) == 0
    assert "written to prices.png" in capsys.readouterr().err
    assert Path("prices.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert main(["market", "minilm", "--png", "nowhere/prices.png"]) == 2
    assert "cannot write nowhere/prices.png" in capsys.readouterr().err


def test_a_picture_without_matplotlib(home: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_history(home, hours=1)
    for name in list(sys.modules):
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["market", "minilm", "--png", "prices.png"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert "pictures need matplotlib" in error
    assert "pip install 'cocoon-p2p[plot]'" in hint


def test_history_of_what_is_not_known(home: Path, capsys: Captured) -> None:
    assert main(["market", "minilm"]) == 0
    assert "no history here yet" in capsys.readouterr().err
    assert main(["market", "minilm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == []
    now_ms = keep_history(home)
    assert main(["market", "minlm"]) == 1
    assert "did you mean minilm?" in capsys.readouterr().err
    assert main(["market", "minilm", "--tier", "open"]) == 1
    assert "try --tier sealed" in capsys.readouterr().err
    with open_market_journal(home / "market.db") as journal:
        journal.add_samples([MarketSample(now_ms, OTHER, "minilm", Tier.SEALED, 1, 1, 1, 1, 1)])
    assert main(["market", "minilm"]) == 2
    assert "'minilm' stands for 2 models: 3b5a1c2d, 77aa1c2d" in capsys.readouterr().err


# --- export and replay ---


def test_what_is_exported_is_replayed(home: Path, capsys: Captured) -> None:
    now_ms = keep_history(home)
    assert main(["market", "export", "heard", "--hours", "2", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["peer_id"] == Home(home).identity().peer_id
    assert row["announcements"] in (121, 122), "two hours, and the minute before that may still count"
    assert main(["market", "replay", "heard", "--at", str(now_ms + 100), "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    assert replayed["announcements"] == {"applied": row["announcements"], "refused": {}, "later": 0}
    assert [(line["tier"], line["providers"], line["best_nanogram"]) for line in replayed["book"]] == [
        ("sealed", 1, 1190), ("open", 1, 1190),
    ]  # fmt: skip
    (offer,) = replayed["offers"]
    assert (offer["peer_id"], offer["age_ms"]) == (PROVIDERS[0].peer_id, 600)
    assert main(["market", "replay", "heard", "--at", str(now_ms - 10_000)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"minilm .*sealed +1 +3/4 +0\.000001189", out)
    assert "announcements, each with a good signature, 1 are of later; 0 refused" in err
    assert max(map(len, (out + err).splitlines())) <= 100


def test_replay_of_one_model(home: Path, capsys: Captured) -> None:
    now_ms = keep_history(home)
    assert main(["market", "export", "heard"]) == 0
    capsys.readouterr()
    assert main(["market", "replay", "heard", "--at", str(now_ms), "--model", "minilm"]) == 0
    assert "PROVIDER" in capsys.readouterr().out
    assert main(["market", "replay", "heard", "--model", "nothing"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "nobody offered 'nothing' then" in err


def test_replay_counts_what_it_refuses(home: Path, capsys: Captured) -> None:
    keep_history(home, forged=True)
    assert main(["market", "export", "heard"]) == 0
    capsys.readouterr()
    assert main(["market", "replay", "heard"]) == 0
    err = capsys.readouterr().err
    assert "; 1 refused" in err
    assert "refused: 1 not signed by the peer it speaks of (SIGNATURE)" in err


def test_a_moment_outside_the_file(home: Path, capsys: Captured) -> None:
    keep_history(home)
    assert main(["market", "export", "heard", "--hours", "1"]) == 0
    capsys.readouterr()
    assert main(["market", "replay", "heard", "--at", "1000"]) == 2
    assert "tells of" in capsys.readouterr().err


def test_an_export_of_nothing_leaves_no_file(home: Path, capsys: Captured) -> None:
    with open_market_journal(home / "market.db"):
        pass
    assert main(["market", "export", "heard", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing was heard in that time; no file was written" in err
    assert list(Path().glob("*heard*")) == []


def test_an_export_without_a_journal(home: Path, capsys: Captured) -> None:
    assert main(["market", "export", "heard"]) == 1
    assert "no announcements are kept" in capsys.readouterr().err
    assert not Path("heard").exists()
    keep_history(home, hours=1)
    assert main(["market", "export", "nowhere/heard"]) == 2
    assert "cannot write nowhere/heard" in capsys.readouterr().err
    Path("folder").mkdir()
    for wrong in ("folder", "", "x" * 300, "nul\0"):
        assert main(["market", "export", wrong]) == 2
        assert "cannot write" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "home"]


def test_bad_files_are_named_with_the_place(home: Path, capsys: Captured) -> None:
    keep_history(home, hours=1)
    assert main(["market", "export", "heard"]) == 0
    good = Path("heard").read_bytes()
    header_end = 16 + 4 + int.from_bytes(good[16:20], "big")
    end = len(good) - 4 - 3
    wrongs = {
        "not ours": (b"GIF89a" + good, 0, "no file of `cocoon-node market export`"),
        "empty": (b"", 0, "cut short"),
        "short header": (good[:30], 20, "cut short within a record"),
        "no end": (good[:end], end, "cut short"),
        "within an entry": (good[: header_end + 100], header_end + 4, "cut short within a record"),
        "long record": (good[:header_end] + b"\xff" * 100, header_end, "a record of 4,294,967,295 bytes"),
        "garbage": (good[:header_end] + b"\0\0\0\x04abcd", header_end, "not msgpack"),
        "two headers": (good[:header_end] + good[16:], header_end, "a second header"),
        "wrong count": (good[:-1] + b"\x07", end, "7 announcements should be here"),
        "more behind": (good + b"x", len(good), "something follows the end"),
        "an entry first": (good[:16] + good[header_end:], 16, "the header is not where it should be"),
    }
    for name, (data, offset, text) in wrongs.items():
        Path("bad").write_bytes(data)
        capsys.readouterr()
        assert main(["market", "replay", "bad"]) == 2, name
        error, hint = capsys.readouterr().err.splitlines()
        assert f"bad, at byte {offset:,}: " in error, (name, error)
        assert text in error, (name, error)
        assert "market export" in hint
    assert main(["market", "replay", "nowhere"]) == 2
    assert "cannot read nowhere: No such file" in capsys.readouterr().err
