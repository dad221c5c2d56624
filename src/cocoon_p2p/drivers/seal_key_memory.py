"""Seal keys that providers' quotes have brought, so that the next job can be sealed without asking first."""

from __future__ import annotations

from collections import OrderedDict

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.wire.seal import SealKeyRecord


class SealKeyMemory:
    """One key a provider, of the `limits.SEAL_KEYS_REMEMBERED_MAX` that quoted last. All keys that come in are verified."""

    def __init__(self, *, kept_max: int = limits.SEAL_KEYS_REMEMBERED_MAX) -> None:
        self._kept_max = kept_max
        self._keys: OrderedDict[PeerId, SealKeyRecord] = OrderedDict()

    def remember(self, provider: PeerId, key: SealKeyRecord) -> None:
        """The newest quote's."""
        self._keys[provider] = key
        self._keys.move_to_end(provider)
        if len(self._keys) > self._kept_max:
            self._keys.popitem(last=False)

    def find(self, provider: PeerId, unix_ms: int) -> SealKeyRecord | None:
        """The provider's key, if it is good for as long as a job needs to begin."""
        key = self._keys.get(provider)
        if key is None or unix_ms + limits.FIRM_KEY_LEFT_S * 1000 >= key.not_after_ms:
            return None
        return key

    def forget(self, provider: PeerId) -> None:
        """It did not open what was sealed to its key, or its stream ended: it may have been restarted, with new keys."""
        self._keys.pop(provider, None)
