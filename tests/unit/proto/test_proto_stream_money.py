"""An answer in frames and its money, over random schedules of messages lost, ends killed, stops and cancels: both sides agree as
soon as they have met again, nobody pays twice, and neither ever risks more than one instalment."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from job_pair import JOB_ID
from stream_pair import StreamPair, make_stream_terms, price

from cocoon_p2p.errors import SettlementError
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.wire.job import Cancel, decode_receipt_body


def check_risks(pair: StreamPair) -> None:
    """job/1 §3.16: the client has signed for one instalment beyond what came, or beyond the prompt (or what it chose to pay first);
    the model has worked on one instalment beyond what is owed, or beyond the prompt."""
    instalment, stream = pair.terms.instalment, pair.client.stream
    if stream is not None and pair.paying.state == "reserved":
        ahead = max(pair.terms.first_paid, max(stream.items, stream.prompt_items) + instalment)
        assert pair.paying.reserved is not None
        assert pair.paying.reserved <= price(min(ahead, pair.terms.items))
    for job in pair.session._jobs.values():
        if job.stream is not None and job.stream.prompt_items is not None:
            unpaid = job.stream.items - max(job.stream.acked.items, job.stream.prompt_items)
            assert job.stream.items <= job.stream.paid
            assert unpaid <= instalment
            assert job.receipt is None or job.receipt[1].price == price(job.stream.acked.items)


def any_pair(draw: random.Random) -> StreamPair:
    items = draw.choice([60, 300, 1000])
    terms = make_stream_terms(
        items=items, instalment=draw.choice([16, 17, 64, 200]), prepaid=draw.choice([0, 50, 200, 10**6])
    )
    prompt = draw.randrange(1, min(items, 250))
    return StreamPair(
        terms,
        prompt=prompt,
        answer=draw.randrange(1, min(400, items - prompt) + 1),
        at_a_time=draw.choice([1, 5, 64]),
        wallet=draw.choice([10**9, price(items // 2)]),
    )


def something_happens(pair: StreamPair, draw: random.Random) -> None:
    ends = [pair.break_connection, pair.kill_provider, pair.kill_client]
    chance = draw.random()
    if chance < 0.4:
        pair.work()
    elif chance < 0.65:
        pair.deliver_to_provider()
    elif chance < 0.9:
        pair.deliver_to_client()
    elif chance < 0.95:
        pair.now += draw.choice([0.5, 3, 8, 20])
        pair.tick()
    elif chance < 0.96 and not pair.finished:
        pair.run_client(pair.client.stop())
    elif chance < 0.965 and not pair.finished:
        pair.run_client(pair.client.cancel())
    elif chance < 0.975:
        draw.choice(ends)()


def meet_and_break_again(pair: StreamPair, draw: random.Random) -> None:
    pair.connected, pair.session = True, pair._new_session()
    if pair.kept_receipt is not None and not pair.signed:
        pair.run_provider(pair.session.resend_receipts([pair.kept_receipt]))
    if pair.paying.state == "unknown":
        pair.to_provider.append(Cancel(JOB_ID).encode())
    for _ in range(draw.randrange(5)):
        draw.choice([pair.deliver_to_client, pair.deliver_to_provider])()
    pair.to_client.clear()
    pair.to_provider.clear()


def one_story(seed: int) -> str:
    draw = random.Random(seed)
    pair = any_pair(draw)
    try:
        pair.begin()
    except SettlementError:
        return "no money"
    for _ in range(draw.randrange(400)):
        if not pair.connected:
            break
        something_happens(pair, draw)
        check_risks(pair)
    if pair.connected:
        while draw.random() < 0.99 and pair.step():
            check_risks(pair)
        draw.choice([pair.break_connection, pair.kill_provider, pair.kill_client])()
    for _ in range(draw.randrange(4)):
        meet_and_break_again(pair, draw)
    pair.meet_again()
    assert pair.paying.booked == pair.earning.booked, (pair.paying, pair.earning)
    assert {pair.paying.state, pair.earning.state} in ({"settled"}, {"released"})
    assert pair.paying.settled == pair.earning.settled <= 1
    if pair.earning.state == "settled":
        assert pair.signed
        assert pair.kept_receipt is not None
        body = decode_receipt_body(pair.kept_receipt.body)
        assert body.price == price(body.items) == pair.paying.price
        assert body.items <= pair.prompt + len(pair.tokens), "nobody pays for what he does not have"
    assert pair.tokens == list(range(pair.prompt, pair.prompt + len(pair.tokens))), "no gap, no repeat"
    assert not pair.of(fx.Penalise), "both are honest"
    return pair.paying.state


def test_two_sides_that_lost_each_other_agree_when_they_meet() -> None:
    ends = Counter(one_story(seed) for seed in range(150))
    assert ends["settled"] > 40
    assert ends["released"] > 20


@pytest.mark.parametrize("lost", range(12))
def test_whichever_message_is_the_last_one(lost: int) -> None:
    """A connection that breaks behind each message in turn, at either end."""
    for end in (StreamPair.break_connection, StreamPair.kill_provider, StreamPair.kill_client):
        pair = StreamPair(answer=70)
        pair.begin()
        for _ in range(lost):
            pair.work()
            pair.deliver_to_client()
            pair.deliver_to_provider()
        end(pair)
        pair.meet_again()
        assert pair.paying.booked == pair.earning.booked
        assert {pair.paying.state, pair.earning.state} in ({"settled"}, {"released"})
