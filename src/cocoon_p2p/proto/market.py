"""capacity/1 without IO: what others import. The parts: `announcements` (are they genuine), `market_book` (other peers'),
`announcer` (our own)."""

from __future__ import annotations

from cocoon_p2p.proto.announcements import validate_record, verify_announcement
from cocoon_p2p.proto.announcer import Announcer, PublishAnnouncement
from cocoon_p2p.proto.market_book import (
    BookEffect,
    BookOffer,
    Heard,
    MarketBook,
    OffersChanged,
    RememberAddresses,
    Taken,
    book_offer,
)

__all__ = [
    "Announcer",
    "BookEffect",
    "BookOffer",
    "Heard",
    "MarketBook",
    "OffersChanged",
    "PublishAnnouncement",
    "RememberAddresses",
    "Taken",
    "book_offer",
    "validate_record",
    "verify_announcement",
]
