"""The first wall: what the operator chose is run, what came from peers only where it can be jailed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.models.allow_list import AllowList
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import OPERATOR, PEER, ModelRegistry
from cocoon_p2p.testing import models


def test_which_models_are_run_where_there_is_no_jail(tmp_path: Path) -> None:
    own = ModelRegistry(tmp_path, inspect=inspect_onnx).add(models.matmul_model(tmp_path / "source"))
    came = replace(own, offer=replace(own.offer, origin=PEER))
    jailed, bare = AllowList(), AllowList(no_jail="the kernel lacks Landlock")
    for model in (own, came):
        jailed.check(model)
    bare.check(own)
    with pytest.raises(ExecutionError, match="came from a peer, and the kernel lacks Landlock") as caught:
        bare.check(came)
    assert caught.value.hint is not None
    assert came.model_id in caught.value.hint
    AllowList([came.model_id], "the kernel lacks Landlock").check(came)


def test_a_model_that_came_is_the_operators_once_he_adds_it(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, inspect=inspect_onnx)
    path = models.matmul_model(tmp_path / "source")
    model = registry.add(path)
    assert model.offer.origin == OPERATOR
    registry.set_offer(model.model_id, replace(model.offer, origin=PEER))
    assert registry.get(model.model_id).offer.origin == PEER
    assert registry.add(path).offer.origin == OPERATOR
    assert registry.get(model.model_id).offer.origin == OPERATOR


def test_what_stands_in_the_offers_file(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, inspect=inspect_onnx)
    model = registry.add(models.matmul_model(tmp_path / "source"))
    with pytest.raises(ConfigError, match="origin"):
        registry.set_offer(model.model_id, replace(model.offer, origin="heaven"))
    file = model.folder / "offer.json"
    fields = json.loads(file.read_text())
    del fields["origin"]  # as it was written before
    file.write_text(json.dumps(fields))
    assert registry.get(model.model_id).offer.origin == OPERATOR
    file.write_text(json.dumps(fields | {"origin": "heaven"}))
    assert registry.list() == ()
    (problem,) = registry.problems()
    assert "origin" in problem
