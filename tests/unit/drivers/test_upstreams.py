"""What the operator is told of clusters that are not offered."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from serving_parts import IdleEngine, make_desk

from cocoon_p2p.drivers.serving import PriceSettings, Serving
from cocoon_p2p.drivers.upstreams import UpstreamOffer, Upstreams
from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.engines import EngineSet, open_engine_set
from cocoon_p2p.execution.session_states import SessionBounds
from cocoon_p2p.execution.upstream.engine import open_upstream_engine
from cocoon_p2p.execution.upstream.http import Complaints
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.models.registry import ModelRegistry

NOBODY = UpstreamSettings("adder", "open-inference", "http://127.0.0.1:9", "adder")
"""Port 9 (discard) has no server anywhere, and no test binds it."""


async def test_a_cluster_that_stays_away_is_told_once_and_again_when_the_reason_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_upstream_engine() as upstream,
        open_engine_set(IdleEngine(), upstream, SessionBounds(1, 1)) as engines,
    ):
        serving = Serving(engines, make_desk(), ModelRegistry(tmp_path), PriceSettings(1, 1))
        upstreams = Upstreams(engines, serving, [UpstreamOffer(NOBODY)])
        with caplog.at_level(logging.INFO, "cocoon_p2p.drivers.upstreams"):
            for _ in range(3):
                await upstreams.begin()
            assert caplog.text.count("upstream adder is not offered yet: cannot be reached at http://127.0.0.1:9") == 1

            async def refuse(self: EngineSet, settings: UpstreamSettings) -> None:
                raise ExecutionError("it asks for a key")

            monkeypatch.setattr(EngineSet, "add_upstream", refuse)
            monkeypatch.setattr(EngineSet, "upstream_complaint", lambda self, name: "")
            for _ in range(2):
                await upstreams.begin()
        assert caplog.text.count("is not offered yet") == 2
        assert upstreams.standing()[0].problem == "it asks for a key"


def test_what_a_cluster_did_before_a_good_answer_is_no_reason_any_more() -> None:
    complaints = Complaints("adder")
    complaints.oddity("it broke off an answer")
    assert complaints.last == "it broke off an answer"
    complaints.trouble("cannot be reached")
    assert complaints.last == "cannot be reached"
    complaints.over()
    assert complaints.last == ""
