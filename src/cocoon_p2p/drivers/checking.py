"""Everything by which a node finds wrong answers, put together."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from cocoon_p2p.drivers.auditing import Auditor, Repeater
from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.drivers.comparing import compare
from cocoon_p2p.drivers.evidence import EvidenceFolder, EvidenceShelf, Examined, Rerun, examine
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.drivers.own_engine import OwnEngine
from cocoon_p2p.drivers.quorum import Judge, JudgePorts, Quorum, Shop
from cocoon_p2p.drivers.resolve import Resolver
from cocoon_p2p.ids import ModelId
from cocoon_p2p.policy.agreement import Precision
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.tensors import Payload
from cocoon_p2p.wire.evidence import SignedEvidence

EVIDENCE_FOLDER = "evidence"
"""In the home."""


@dataclass(frozen=True, slots=True)
class Checks:
    """Made by `make_checks`. `repeater.run` is a task of the node's."""

    quorum: Quorum
    auditor: Auditor
    repeater: Repeater
    shelf: EvidenceShelf
    folder: EvidenceFolder
    own: OwnEngine

    async def examine(self, signed: SignedEvidence) -> Examined:
        """As `drivers.evidence.examine`, with the models that are installed here."""
        return await examine(signed, rerunner(self.own), compare)


@dataclass(frozen=True, slots=True)
class CheckPorts:
    identity: IdentityKey
    experience: ExperienceKeeper
    clock: Clock
    rng: random.Random
    """Not foreseeable."""


def make_checks(
    ports: CheckPorts, shop: Shop, resolver: Resolver, own: OwnEngine, *, home: Path, audit_percent: float
) -> Checks:
    """`home` is the node's folder; `audit_percent` of its own jobs are repeated."""
    judge = Judge(JudgePorts(ports.identity, ports.experience, ports.clock, resolver.manifest))
    shelf, folder = EvidenceShelf(), EvidenceFolder(home / EVIDENCE_FOLDER)
    quorum = Quorum(shop, judge, ports.clock, shelf)
    auditor = Auditor(shop, quorum, judge, resolver=resolver, own=own, folder=folder, rng=ports.rng)
    repeater = Repeater(shop, quorum, judge, shelf=shelf, rng=ports.rng, percent=audit_percent)
    return Checks(quorum, auditor, repeater, shelf, folder, own)


def rerunner(own: OwnEngine) -> Rerun:
    """Runs a model that is installed here (its files are checked when it is loaded); None when it is not here."""

    async def rerun(model_id: ModelId, given: Payload) -> tuple[Payload, Precision] | None:
        manifest = own.manifest(model_id)
        if manifest is None:
            return None
        return await own.run(model_id, given), Precision(manifest.precision)

    return rerun
