"""What a provider announces: prices by tier, device, speed, and nothing while it rests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from serving_parts import CLIENT, IdleEngine, ask_for, make_desk

from cocoon_p2p.drivers.serving import PriceSettings, Serving, device_class
from cocoon_p2p.errors import ConfigError, ExecutionError, RefusalReason
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, ITEMS_PER_JOB_MAX
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.testing import models
from cocoon_p2p.wire.capacity import DeviceClass, TierPrice, Unit
from cocoon_p2p.wire.job_codes import Phase

PRICES = PriceSettings(1000, 10, "follow-demand", 50, 400, open_percent=30)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx)


async def test_an_offer_says_what_a_client_chooses_by(registry: ModelRegistry, tmp_path: Path) -> None:
    desk = make_desk(tiers=frozenset(Tier) - {Tier.ATTESTED}, open_percent=30)
    engine = IdleEngine("cuda:0")
    serving = Serving(engine, desk, registry, PRICES)
    model = await serving.install_and_serve(models.matmul_model(tmp_path), name="m", price_base=None, price_per_item=7)
    desk.begin(model.model_id, 5, 100)
    engine.item_s, engine.best_items_s = 0.002, 12.3456
    (offer,) = serving.offers()
    assert (offer.model_id, offer.name, offer.unit) == (model.model_id, "m", Unit.ITEM)
    assert offer.prices == (TierPrice(Tier.OPEN, 300, 3), TierPrice(Tier.SEALED, 1000, 7))  # 30 % of 7, rounded up
    assert (offer.slots_total, offer.slots_free, offer.queue_ms, offer.item_us) == (4, 3, 10, 2000)
    assert (offer.device, offer.device_class, offer.throughput) == ("cuda:0", DeviceClass.GPU, 12_345)
    assert (offer.items_max, offer.input_bytes_max) == (8, 1000)
    assert serving.price(model.model_id) == (1000, 7)
    assert serving.price(model.model_id, Tier.OPEN) == (300, 3)
    assert serving.pricing(model.model_id) == "follow-demand"


async def test_a_moved_price_moves_in_every_tier(registry: ModelRegistry, tmp_path: Path) -> None:
    desk = make_desk(tiers=frozenset({Tier.OPEN, Tier.SEALED}), open_percent=30)
    serving = Serving(IdleEngine(), desk, registry, PRICES)
    model = await serving.install_and_serve(
        models.matmul_model(tmp_path), name="m", price_base=None, price_per_item=None
    )
    assert desk.models[model.model_id].pricing.observe(1.0)
    assert serving.offers()[0].prices == (TierPrice(Tier.OPEN, 309, 3), TierPrice(Tier.SEALED, 1030, 10))


async def test_nothing_is_offered_while_the_machine_rests(registry: ModelRegistry, tmp_path: Path) -> None:
    desk = make_desk()
    serving = Serving(IdleEngine(), desk, registry, PRICES)
    await serving.install_and_serve(models.matmul_model(tmp_path), name="m", price_base=None, price_per_item=None)
    assert len(serving.offers()) == 1
    desk.rests = Refused(RefusalReason.IDLE_POLICY, "later", 1000)
    assert serving.offers() == []
    assert len(serving.models()) == 1
    desk.rests = None
    assert len(serving.offers()) == 1


async def test_a_cold_model_says_how_long_its_loading_takes(registry: ModelRegistry, tmp_path: Path) -> None:
    desk, engine = make_desk(), IdleEngine()
    serving = Serving(engine, desk, registry, PRICES)
    model = await serving.install_and_serve(
        models.matmul_model(tmp_path), name="m", price_base=None, price_per_item=None
    )
    engine.item_s = 0.002
    (offer,) = serving.offers()
    assert (offer.warm, offer.load_ms, offer.queue_ms) == (True, 0, 0)
    engine.cold[model.model_id] = 2.5
    desk.begin(model.model_id, 5, 100)
    (offer,) = serving.offers()
    assert (offer.warm, offer.load_ms, offer.queue_ms) == (False, 2500, 2510)
    assert desk.queue_ms(model.model_id) == 2510
    desk.work_begins(CLIENT, JobId(bytes(16)), model.model_id, 5)
    assert desk.progress(CLIENT, JobId(bytes(16)), model.model_id) == (Phase.QUEUED, 2510)
    engine.cold[model.model_id] = 0.0
    assert not serving.offers()[0].warm, "still cold, if only for a moment"
    engine.cold.clear()
    assert desk.progress(CLIENT, JobId(bytes(16)), model.model_id) == (Phase.RUNNING, 10)


async def test_an_answer_waits_only_for_a_place(registry: ModelRegistry, tmp_path: Path) -> None:
    desk, engine = make_desk(slots=2), IdleEngine()
    serving = Serving(engine, desk, registry, PRICES)
    model = await serving.install_and_serve(
        models.matmul_model(tmp_path), name="m", price_base=None, price_per_item=None
    )
    engine.item_s, engine.wait_s, engine.next_end_s = 0.002, 0.0, 1.5
    desk.begin(model.model_id, 5000, 100)
    assert serving.offers()[0].queue_ms == 0, "whatever the others still need"
    engine.wait_s = 0.25
    engine.cold[model.model_id] = 2.0
    assert serving.offers()[0].queue_ms == 2250
    engine.cold.clear()
    desk.begin(model.model_id, 5000, 100)
    assert serving.offers()[0].queue_ms == 1500, "there is no slot before one of them has ended"
    engine.next_end_s = None
    assert serving.offers()[0].queue_ms == 20_000, "they have not come to the engine yet"


async def test_a_model_that_could_not_be_loaded_is_not_offered(registry: ModelRegistry, tmp_path: Path) -> None:
    engine = IdleEngine()
    serving = Serving(engine, make_desk(), registry, PRICES)
    await serving.install_and_serve(models.matmul_model(tmp_path), name="m", price_base=None, price_per_item=None)
    engine.problem = "no memory"
    assert serving.offers() == []
    assert len(serving.models()) == 1
    engine.problem = ""
    assert len(serving.offers()) == 1


async def test_what_is_kept_warm_is_loaded_first(
    registry: ModelRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installed = [registry.add(models.matmul_model(tmp_path)), registry.add(models.centring_model(tmp_path))]
    engine = IdleEngine()
    await Serving(engine, make_desk(), registry, PRICES).serve_all(installed, skip_failing=False)
    assert engine.kept == [None, None]
    engine = IdleEngine()
    kept = Serving(engine, make_desk(), registry, PRICES, keep_warm=("centring", "centering"))
    await kept.serve_all(installed, skip_failing=False)
    assert (engine.loaded[0], engine.kept) == (installed[1].model_id, [True, False])
    (record,) = caplog.records
    assert record.getMessage().endswith("no model on offer here: centering")


async def test_askers_are_told_that_a_model_does_not_fit(
    registry: ModelRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = registry.add(models.matmul_model(tmp_path))
    engine, desk = IdleEngine(), make_desk()
    engine.fault = ExecutionError("it would take about 9.1 GiB of memory", code="LIMITS")
    await Serving(engine, desk, registry, PRICES).serve_all([model], skip_failing=True)
    assert "model matmul is not offered: it would take about 9.1 GiB" in caplog.text
    refused = desk.decide(ask_for(model.model_id), client=CLIENT, jobs_of_client=0, unix_ms=0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.LIMITS
    assert refused.detail == "matmul does not fit: it would take about 9.1 GiB of memory"
    refused = desk.decide(ask_for(ModelId("ab" * 32)), client=CLIENT, jobs_of_client=0, unix_ms=0)
    assert isinstance(refused, Refused)
    assert refused.reason is RefusalReason.NO_MODEL


async def test_a_price_that_could_not_be_counted_is_refused(registry: ModelRegistry, tmp_path: Path) -> None:
    most = AMOUNT_NANOGRAM_MAX // ITEMS_PER_JOB_MAX // 10
    path = models.matmul_model(tmp_path)
    serving = Serving(IdleEngine(), make_desk(), registry, replace(PriceSettings(0, 1), open_percent=1000))
    await serving.install_and_serve(path, name="m", price_base=None, price_per_item=most)
    with pytest.raises(ConfigError, match="too large"):
        await serving.install_and_serve(path, name="m", price_base=None, price_per_item=most + ITEMS_PER_JOB_MAX)


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("cpu", DeviceClass.CPU),
        ("cuda:0", DeviceClass.GPU),
        ("tensorrt:0", DeviceClass.GPU),
        ("migraphx:0", DeviceClass.GPU),
        ("coreml", DeviceClass.GPU),
        ("directml:0", DeviceClass.GPU),
        ("simulated", DeviceClass.OTHER),
        ("", DeviceClass.OTHER),
    ],
)
def test_device_classes(device: str, kind: DeviceClass) -> None:
    assert device_class(device) is kind
