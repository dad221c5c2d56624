"""How much of a market full of made-up models is written down."""

from __future__ import annotations

from cocoon_p2p import limits
from cocoon_p2p.drivers.journal import samples_of
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.wire.capacity import DeviceClass, Offer, TierPrice, Unit


def offered(number: int, peer: str) -> BookOffer:
    offer = Offer(
        ModelId(f"{number:064x}"),
        "m",
        Unit.ITEM,
        (TierPrice(Tier.SEALED, 1, 1),),
        1,
        1,
        1,
        1,
        0,
        "cpu",
        DeviceClass.CPU,
        0,
        0,
    )
    return BookOffer(PeerId(peer), (), "", (0,), "", offer, 1, 2)


def test_the_models_that_most_offer_are_sampled() -> None:
    offers = [offered(number, "liar") for number in range(3 * limits.JOURNAL_SAMPLES_MAX)]
    offers += [offered(10**6, peer) for peer in ("alice", "bob")]
    samples = samples_of(offers, 5)
    assert len(samples) == limits.JOURNAL_SAMPLES_MAX
    assert samples[0].model_id == ModelId(f"{10**6:064x}")
    assert samples[0].providers == 2
