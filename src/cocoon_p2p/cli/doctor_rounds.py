"""The rounds of `cocoon-node doctor`: which checks, in which order, each bounded in time; one that breaks is a failed line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import trio

from cocoon_p2p.cli import doctor_market as market
from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.doctor_checks import (
    Check,
    HomeFacts,
    judge_addresses,
    judge_clock,
    judge_connections,
    judge_directory,
    judge_heard,
    judge_home,
    judge_left_out,
    judge_reachability,
    judge_without_models,
)
from cocoon_p2p.cli.doctor_stranger import Entered, buy, live, ways_in
from cocoon_p2p.cli.serving import waiting_upstream
from cocoon_p2p.cli.words import short_ids
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, PeerRefused, TransportError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import DOCTOR_CHECK_S, DOCTOR_IN_ALL_S, DOCTOR_MODELS_MAX
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.tensors import Payload
from cocoon_p2p.units import LOCAL_NETWORK_ID

T = TypeVar("T")
Row = dict[str, Any]
SEED_BITS = 62
EXCUSES = ("TIMEOUT", "CANARY", "BUSY", "LIMITS")
"""Codes of own runs that failed through nobody's fault."""


class Rounds:
    """One examination. `say` is told each check as it is known; `at` is " --home DIR" or ""."""

    def __init__(
        self,
        api: LocalApi,
        home: Home,
        at: str,
        *,
        say: Callable[[Check], None],
        canary: bool,
        timeout_s: float,
        rng: random.Random,
    ) -> None:
        self._api = api
        self._home = home
        self._at = at
        self._say = say
        self._canary = canary
        self._timeout_s = timeout_s
        self._check_s = DOCTOR_CHECK_S * max(1.0, timeout_s / DOCTOR_IN_ALL_S)
        self._rng = rng
        self._deadline = 0.0
        self._checks: list[Check] = []
        self._stranger: Entered | None = None
        self._status: Row = {}
        self._peers: list[Row] = []
        self._health: Row = {}
        self._answers: dict[str, tuple[int, Row, Payload]] = {}
        """Model id → seed, head and answer of the node's own run."""
        self._not_run: dict[str, str] = {}
        """Model id → why there was none."""

    async def run(self) -> list[Check]:
        """All checks. Raises CocoonError only when the node does not even say its status."""
        self._deadline = trio.current_time() + self._timeout_s
        await self._look()
        await self._check("home", self._home_check)
        async with open_plain_nursery() as nursery:
            await self._check("stranger", partial(self._enter, nursery))
            await self._check("clock", self._clock)
            await self._check("connections", self._connections)
            await self._check("reachability", self._reachability)
            await self._check("addresses", self._addresses)
            await self._check("announcement", self._announcement)
            await self._check("directory", self._directory)
            await self._models()
            await self._check("jail", self._jail)
            await self._check("idle rules", self._idle)
            await self._check("money", self._money)
            nursery.cancel_scope.cancel()
        return self._checks

    async def _look(self) -> None:
        try:
            with trio.fail_after(DOCTOR_CHECK_S):
                self._status = await self._ask(partial(self._api.get, "/v1/status"))
                self._peers = (await self._ask(partial(self._api.get, "/v1/peers")))["peers"]
                self._health = await self._ask(partial(self._api.get, "/v1/doctor"))
        except trio.TooSlowError:
            raise TransportError(
                f"the node on {self._home.path} runs, but does not answer within {DOCTOR_CHECK_S:.0f} s",
                outcome_known=False,
                code="NODE_SILENT",
                hint="look at its log; stop it, and start it again: cocoon-node up" + self._at,
            ) from None

    # --- one check ---

    async def _check(self, name: str, work: Callable[[], Awaitable[Check | None]]) -> None:
        check = await self._bounded(name, work)
        if check is not None:
            self._checks.append(check)
            self._say(check)

    async def _bounded(self, name: str, work: Callable[[], Awaitable[Check | None]]) -> Check | None:
        again = f"ask again with more time: cocoon-node doctor --timeout 120{self._at}"
        left_s = self._deadline - trio.current_time()
        if left_s <= 0:
            return Check(name, "fail", f"not looked at: {self._timeout_s:g} s are over", again)
        bound_s = min(self._check_s, left_s)
        try:
            with trio.fail_after(bound_s):
                return await work()
        except trio.TooSlowError:
            return Check(name, "fail", f"it took longer than {bound_s:.0f} s", again)
        except CocoonError as error:
            return Check(name, "fail", short_ids(error.message), short_ids(error.hint or ""))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            return Check(name, "fail", f"the check itself broke: {type(error).__name__}: {error}", "report it as a bug")

    async def _ask(self, call: Callable[[], T]) -> T:
        """The node's local API, whose client waits."""
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)

    # --- the node and its network ---

    async def _home_check(self) -> Check:
        trouble = ""
        try:
            await self._ask(partial(self._api.get, "/v1/jobs", limit=1))
            await self._ask(partial(self._api.get, "/v1/wallet"))
        except CocoonError as error:
            trouble = error.message
        return judge_home(look_at_home(self._home, trouble, self._status.get("damaged_rows")))

    async def _enter(self, nursery: trio.Nursery) -> Check | None:
        others, itself = ways_in(self._status, self._peers), list(self._status["addresses"])
        name = "stranger"
        if not others and not itself:
            return Check(
                name, "skip", "there is no way in for a stranger: this node is alone, and accepts no connections"
            )
        entered: Entered = await nursery.start(live, self._home, others, itself)
        self._stranger = entered
        if entered.trouble:
            return Check(
                name,
                "warn",
                f"a stranger comes into the network by this node only, not by its peers: {short_ids(entered.trouble)}",
                f"see who they are: cocoon-node peers{self._at}; more bootstrap nodes make a network easier to enter",
            )
        if not entered.by_others:
            return Check(name, "pass", "a stranger came into the network by this node itself, as there is nobody else")
        return Check(name, "pass", f"a stranger came into the network by others, {counted(len(others))} to try")

    async def _clock(self) -> Check:
        strangers: Row | None = None
        if self._stranger is not None and self._stranger.by_others:
            node = self._stranger.node
            heard = await node.offers()
            strangers = dict(node.clock_comparison())
            if any(each["peer_id"] == self._me for each in heard) and strangers["compared"]:
                strangers["compared"] -= 1  # the node's own clock is this machine's
        return judge_clock(self._health["clock"], strangers)

    async def _connections(self) -> Check:
        return judge_connections(len(self._peers), self._status["bootstrap"], self._at)

    async def _reachability(self) -> Check:
        listens = bool(self._status["addresses"])
        return judge_reachability(
            self._status["reachability"],
            self._status["addresses"],
            serves=bool(self._served),
            listens=listens,
            at=self._at,
        )

    async def _addresses(self) -> Check:
        if self._stranger is None:
            return Check("addresses", "skip", "no stranger could enter to dial them")
        suffix = f"/p2p/{self._me}"
        addresses = [each.removesuffix(suffix) for each in self._status["addresses"]]
        dials = await self._stranger.node.try_addresses(self._me, addresses)
        return judge_addresses(dials, state=self._status["reachability"]["state"])

    # --- whether others know of it ---

    async def _announcement(self) -> Check:
        reason = self._why_not_announced()
        if reason:
            return Check("announcement", "skip", reason)
        leave_out = None if self._stranger is None else self._stranger.node.peer_id
        rows = (await self._ask(partial(self._api.get, "/v1/heard", leave_out=leave_out)))["peers"]
        return judge_heard(rows, uptime_s=self._status["uptime_s"], at=self._at)

    async def _directory(self) -> Check:
        reason = self._why_not_announced()
        if reason:
            return Check("directory", "skip", reason)
        if self._stranger is None or not self._stranger.by_others:
            return Check("directory", "skip", "no stranger came in by others to look this node up")
        model = self._served[0]
        row = await self._stranger.node.in_directory(self._me, model["model_id"])
        return judge_directory(row, model["name"], uptime_s=self._status["uptime_s"], at=self._at)

    def _why_not_announced(self) -> str:
        if not self._served:
            return "this node serves nobody, so there is nothing to announce"
        return "this node rests by its idle rules, and has withdrawn its offers" if self._resting else ""

    # --- what it sells ---

    async def _models(self) -> None:
        waiting = [each for each in self._status.get("upstreams") or () if each["problem"]]
        for each in waiting:
            await self._check(f"upstream {each['name']}", partial(self._upstream, each))
        left_out = self._status.get("not_offered") or ()
        for each in left_out:
            self._checks.append(judge_left_out(each, at=self._at))
            self._say(self._checks[-1])
        if not self._served and not waiting and not left_out:
            self._checks.append(judge_without_models(self._status, at=self._at))
            self._say(self._checks[-1])
        for number, model in enumerate(self._served):
            tried = number < DOCTOR_MODELS_MAX
            await self._check(f"model {model['name']}", partial(self._model, model, run=tried))
            if tried:
                await self._check(f"purchase {model['name']}", partial(self._purchase, model))
            await self._check(f"price {model['name']}", partial(self._price, model))

    async def _upstream(self, row: Row) -> Check:
        return Check(
            f"upstream {row['name']}", "warn", waiting_upstream(row), "look at it, and at its [[upstream]] in node.toml"
        )

    async def _model(self, model: Row, *, run: bool) -> Check:
        if model.get("upstream"):  # no files, so nothing here says what a right answer is
            self._not_run[model["model_id"]], run = "a cluster of this node's own runs it", False
        head = await self._run_here(model["model_id"]) if run and self._canary else None
        if self._resting:
            return Check(f"model {model['name']}", "skip", "this node rests by its idle rules, and offers nothing")
        return market.judge_model(model, self._offer_of(model), head)

    async def _run_here(self, model_id: str) -> Mapping[str, Any] | None:
        """What the node says of a run of its own; None when it is too slow or too busy for that, which is no fault."""
        seed = self._rng.getrandbits(SEED_BITS)
        try:
            head, answer = await self._ask(partial(self._api.canary, model_id, seed))
        except CocoonError as error:
            if error.code not in (*EXCUSES, "RANDOM"):
                raise
            self._not_run[model_id] = error.message
            return market.RANDOM if error.code == "RANDOM" else None
        self._answers[model_id] = seed, head, answer
        return head

    async def _purchase(self, model: Row) -> Check | None:
        name = f"purchase {model['name']}"
        reason = self._why_not_bought(model)
        if reason:
            return Check(name, "skip", reason)
        assert self._stranger is not None
        seed, head, answer = self._answers[model["model_id"]]
        manifest = (await self._ask(partial(ModelRegistry(self._home.path).get, model["model_id"]))).manifest
        tiers = (self._offer_of(model) or {"prices": {}})["prices"]
        try:
            bought = await buy(
                self._stranger.node,
                self._me,
                manifest,
                head,
                answer,
                seed=seed,
                tier="sealed" if "sealed" in tiers or not tiers else next(iter(tiers)),
                timeout_s=self._check_s,
            )
        except PeerRefused as error:
            return market.judge_refusal(model["name"], error.reason, error.message)
        return market.judge_purchase(model["name"], bought)

    def _why_not_bought(self, model: Row) -> str:
        if not self._canary:
            return "left out by --no-canary"
        if self._resting:
            return "this node rests by its idle rules, and takes no jobs"
        if self._stranger is None:
            return "no stranger could enter to buy"
        if self._status["settlement_network"] != LOCAL_NETWORK_ID:
            return "it would cost real money"
        if model["model_id"] in self._answers:
            return ""
        return f"there is nothing to compare it with: {self._not_run.get(model['model_id'], 'the own run failed')}"

    async def _price(self, model: Row) -> Check | None:
        offer = self._offer_of(model)
        if offer is None:
            return None
        known: list[Row] = []
        if self._peers:  # to look around alone takes a while, and shows nothing
            known += (await self._ask(partial(self._api.get, "/v1/offers")))["offers"]
        if self._stranger is not None:
            known += await self._stranger.node.offers()
        others = {
            each["peer_id"]: each
            for each in known
            if each["model_id"] == model["model_id"] and each["peer_id"] != self._me
        }
        return market.judge_price(model, offer["prices"], list(others.values()), self._at)

    async def _jail(self) -> Check:
        return market.judge_jail(self._health.get("no_jail"))

    async def _idle(self) -> Check:
        if not self._served:
            return Check("idle rules", "skip", "this node serves nobody")
        return market.judge_idle(self._status["idle"], self._health["untold_rules"])

    async def _money(self) -> Check:
        return market.judge_money(self._served, self._status["settlement_network"])

    # --- what is known of it ---

    @property
    def _me(self) -> PeerId:
        return PeerId(self._status["peer_id"])

    @property
    def _served(self) -> list[Row]:
        return list(self._status["models"])

    @property
    def _resting(self) -> bool:
        return bool((self._status["idle"] or {}).get("resting"))

    def _offer_of(self, model: Mapping[str, Any]) -> Row | None:
        offers: Iterable[Row] = self._health["offers"]
        return next((offer for offer in offers if offer["model_id"] == model["model_id"]), None)


def counted(addresses: int) -> str:
    return "1 address" if addresses == 1 else f"{addresses} addresses"


def look_at_home(home: Home, database_error: str = "", damaged_rows: Row | None = None) -> HomeFacts:
    """What lies on the disk. Raises OSError."""
    files = (home.identity_file, home.channel_file, home.network_file)
    private = [file for file in files if file.exists()]
    readable = tuple(str(file) for file in (home.path, *private) if file.stat().st_mode & 0o077)
    return HomeFacts(str(home.path), readable, shutil.disk_usage(home.path).free, database_error, damaged_rows or {})
