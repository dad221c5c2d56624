"""Texts of the local API that no message could carry."""

from __future__ import annotations

import json

import pytest

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.gateway.fields import text


def test_half_a_character_is_no_text() -> None:
    for given in (r'"\ud800"', r'"a\udfff"'):
        with pytest.raises(ConfigError, match="model"):
            text({"model": json.loads(given)}, "model", chars_max=64)
    assert text({"model": json.loads(r'"\ud83d\ude00"')}, "model", chars_max=64) == "\U0001f600"
