"""What names stood for."""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.errors import StoreError
from cocoon_p2p.ids import ModelId
from cocoon_p2p.store import ModelNames, open_store
from cocoon_p2p.store.database import open_database
from cocoon_p2p.store.schema import STORE_SCHEMA

A, B = ModelId("a" * 64), ModelId("b" * 64)


def test_a_name_stands_for_what_it_was_set_to_last(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with open_store(path) as store:
        assert store.model_names.get("echo") is None
        store.model_names.set("echo", A)
        store.model_names.set("other", A)
        store.model_names.set("echo", B)
    with open_store(path) as store:
        assert (store.model_names.get("echo"), store.model_names.get("other")) == (B, A)


def test_the_oldest_names_are_forgotten(tmp_path: Path) -> None:
    with open_database(tmp_path / "state.sqlite3", STORE_SCHEMA, failure=StoreError) as database:
        names = ModelNames(database, kept_max=3)
        for name in ("one", "two", "three", "one", "four"):
            names.set(name, A)
        kept = [name for name in ("one", "two", "three", "four") if names.get(name) is not None]
        assert kept == ["one", "three", "four"]
