"""Placing calls one by one for routers, and keeping calls at home. Knows the projection; knows no policy's reasons.

A router sees one new call at a time and what the projection says of every pair for it (`Outlook`), with all calls that
come before it in the queues already laid out. Calls that have a placement keep it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hexsolve.jit import kernel
from hexsolve.listplan import KernelPlan, to_plan, world_of
from hexsolve.policy import Plan
from hexsolve.projection import (
    Timeline,
    World,
    apply,
    best_pair,
    can_hold,
    decode_alone,
    fit,
    given_pair,
    open_timeline,
    prefill_time,
)
from hexsolve.snapshot import Snapshot
from hexsolve.tables import DECODE, EMPTY, PREFILL, WAIT_DECODE, WAIT_PREFILL, Floats, Ints, Records

SERIAL_BITS = 20


@dataclass(frozen=True, eq=False)
class Loads:
    """What is bound to each replica, without a projection; grows as calls are dispatched.

    Attributes
    ----------
    prefill_calls, prefill_tokens : int64 [P], calls that wait there or are in prefill, and their prompts.
    decode_calls, decode_blocks, decode_tokens : int64 [D], calls in any stage that are bound there, their KV blocks and
        predicted output tokens.
    """

    prefill_calls: Ints
    prefill_tokens: Ints
    decode_calls: Ints
    decode_blocks: Ints
    decode_tokens: Ints

    @staticmethod
    def of(snapshot: Snapshot, left_out: Ints) -> "Loads":
        """Loads of all live rows but `left_out`, whose placement is open."""
        calls = snapshot.calls
        bound = (calls["decode"] >= 0) & (calls["stage"] != EMPTY)
        bound[left_out] = False
        queued = bound & ((calls["stage"] == WAIT_PREFILL) | (calls["stage"] == PREFILL))
        at, behind = calls[queued], calls[bound]
        num_prefill, num_decode = len(snapshot.prefills), len(snapshot.decodes)
        return Loads(
            np.bincount(at["prefill"], minlength=num_prefill),
            np.bincount(at["prefill"], at["input_tokens"], num_prefill).astype(np.int64),
            np.bincount(behind["decode"], minlength=num_decode),
            np.bincount(behind["decode"], behind["kv_blocks"], num_decode).astype(np.int64),
            np.bincount(behind["decode"], behind["predicted_tokens"], num_decode).astype(np.int64),
        )

    def add(self, call: "np.void", p: int, d: int) -> None:
        """One more call goes to (p, d)."""
        self.prefill_calls[p] += 1
        self.prefill_tokens[p] += call["input_tokens"]
        self.decode_calls[d] += 1
        self.decode_blocks[d] += call["kv_blocks"]
        self.decode_tokens[d] += call["predicted_tokens"]


@dataclass(frozen=True, eq=False)
class Outlook:
    """One new call and what is projected for it; times in ms, inf where a replica is down or too small.

    Attributes
    ----------
    snapshot : what it was made of; call : its record.
    position : of the call in `snapshot.waiting`.
    prefill_ms : float64 [P], its own prefill, given what the replica holds of its prefix.
    free_ms : float64 [P], when the replica is done with everything ahead of it.
    start_ms, finish_ms : float64 [P, D], of its decode.
    loads : what is bound to each replica.
    """

    snapshot: Snapshot
    call: "np.void"
    position: int
    prefill_ms: Floats
    free_ms: Floats
    start_ms: Floats
    finish_ms: Floats
    loads: Loads

    @property
    def queue_ms(self) -> Floats:
        """Wait in each prefill queue, [P]."""
        wait: Floats = self.free_ms - self.snapshot.now_ms
        return wait

    @property
    def held(self) -> Ints:
        """Tokens of its reusable prefix that each prefill replica holds, [P]."""
        held: Ints = np.minimum(self.snapshot.held_tokens[self.call["prefix"]], self.call["cached_tokens"])
        return held

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which decode replicas can take it at all, [D]."""
        fits: NDArray[np.bool_] = np.isfinite(self.finish_ms.min(axis=0))
        return fits

    def token_ms(self, p: int) -> Floats:
        """Projected time per output token on each decode replica, coming from `p`, [D]."""
        with np.errstate(invalid="ignore"):
            time: Floats = (self.finish_ms[p] - self.start_ms[p]) / max(1, int(self.call["predicted_tokens"]))
        return np.where(np.isfinite(self.finish_ms[p]), time, np.inf)

    def soonest(self) -> tuple[int, int]:
        """The pair of the earliest projected finish."""
        p, d = np.unravel_index(np.argmin(self.finish_ms), self.finish_ms.shape)
        return int(p), int(d)

    def decode_for(self, p: int) -> int:
        """The decode replica of the earliest projected finish, coming from `p`."""
        return int(np.argmin(self.finish_ms[p]))


Choose = Callable[[Outlook], tuple[int, int]]
"""The pair for a new call that at least one pair can take."""


def dispatch(snapshot: Snapshot, rank: Ints, choose: Choose, provenance: str, again: Ints | None = None) -> Plan:
    """Calls without a placement get one from `choose`, in order of `rank`; the others keep theirs.

    Parameters
    ----------
    rank : int64 [n] local queue priority by waiting position, no two equal.
    again : positions of waiting calls that lose their placement and are dispatched again; only free calls do.
    """
    waiting = snapshot.waiting
    calls = snapshot.calls[waiting]
    prefill, decode = calls["prefill"].copy(), calls["decode"].copy()
    if again is not None:
        prefill[again] = decode[again] = -1
    free = calls["stage"] == WAIT_PREFILL
    open_ = np.flatnonzero(free & (prefill < 0))
    start, finish = np.full(len(waiting), np.inf), np.full(len(waiting), np.inf)
    prefill[~free] = -1
    if len(open_):
        order = np.argsort(rank, kind="stable")
        order = order[: 1 + int(np.flatnonzero(np.isin(order, open_))[-1])]
        _walk(snapshot, calls, order, choose, Loads.of(snapshot, waiting[open_]), prefill, decode, start, finish)
    return to_plan(snapshot, waiting, (rank, prefill, decode, finish, start), provenance, rank)


def _walk(
    snapshot: Snapshot,
    calls: Records,
    order: Ints,
    choose: Choose,
    loads: Loads,
    prefill: Ints,
    decode: Ints,
    start: Floats,
    finish: Floats,
) -> None:
    """Lay out placed calls and ask `choose` for each new one, in `order`, whose last call is a new one."""
    world, waiting = world_of(snapshot), snapshot.waiting
    num_prefill, num_decode = len(snapshot.prefills), len(snapshot.decodes)
    timeline = _open(world, len(order))
    own_ms = np.empty(num_prefill)
    pairs = np.empty((2, num_prefill, num_decode))
    x = 0
    while x < len(order):
        x = _lay_until_new(world, timeline, waiting, order, x, prefill, decode, start, finish, own_ms, pairs)
        i = int(order[x])
        if np.isfinite(pairs[1]).any():
            outlook = Outlook(snapshot, calls[i], i, own_ms, timeline.free_ms, pairs[0], pairs[1], loads)
            p, d = choose(outlook)
            prefill[i], decode[i] = p, d
            start[i], finish[i] = pairs[0, p, d], pairs[1, p, d]
            loads.add(calls[i], p, d)
        if x + 1 == len(order):
            return
        if prefill[i] < 0:
            x += 1


@kernel
def _open(world: World, extra: int) -> Timeline:
    return open_timeline(world, extra, np.empty((world.calls.shape[0], 2)))


@kernel
def _lay_until_new(
    world: World,
    timeline: Timeline,
    waiting: Ints,
    order: Ints,
    x: int,
    prefill: Ints,
    decode: Ints,
    start: Floats,
    finish: Floats,
    own_ms: Floats,
    pairs: Floats,
) -> int:
    """Apply placed calls from position `x` on; at the first new one fill `own_ms` [P] and `pairs` [2, P, D], stop."""
    alone = np.empty(0)
    while x < order.shape[0]:
        i = order[x]
        c = waiting[i]
        if world.calls[c].stage == WAIT_DECODE:
            placed = best_pair(world, timeline, alone, c)
        elif prefill[i] >= 0:
            placed = given_pair(world, timeline, c, prefill[i], decode[i])
        else:
            _look(world, timeline, c, own_ms, pairs)
            return x
        apply(world, timeline, c, placed)
        start[i], finish[i] = placed.start_ms, placed.finish_ms
        x += 1
    return x


@kernel
def _look(world: World, timeline: Timeline, c: int, own_ms: Floats, pairs: Floats) -> None:
    tokens = world.calls[c].input_tokens
    for p in range(world.prefills.shape[0]):
        own_ms[p] = prefill_time(world, c, p)
        end = timeline.free_ms[p] + own_ms[p]
        for d in range(world.decodes.shape[0]):
            pairs[0, p, d] = pairs[1, p, d] = np.inf
            if end < np.inf and can_hold(world, c, d):
                ready = end + world.pair[0, p, d] + world.pair[1, p, d] * tokens
                pairs[0, p, d], pairs[1, p, d] = fit(world, timeline, c, d, ready)


def plan_at_home(snapshot: Snapshot, order: Ints, home: Ints, provenance: str) -> Plan:
    """Every waiting call in `order`, most urgent first, to its earliest projected finish, prefill at its home.

    Parameters
    ----------
    order : int64 [n] positions in `snapshot.waiting`.
    home : int64 [n] prefill replica by waiting position; -1, and one that is down: any.
    """
    waiting = snapshot.waiting
    order, home = np.ascontiguousarray(order, np.int64), np.ascontiguousarray(home, np.int64)
    return to_plan(snapshot, waiting, _place_at_home(world_of(snapshot), waiting, order, home), provenance)


@kernel
def _place_at_home(world: World, waiting: Ints, order: Ints, home: Ints) -> KernelPlan:
    n, num_prefill = waiting.shape[0], world.prefills.shape[0]
    timeline = open_timeline(world, n, np.empty((world.calls.shape[0], 2)))
    alone, free = np.empty(world.decodes.shape[0]), np.empty(num_prefill)
    prefill, decode = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    start, finish = np.full(n, np.inf), np.full(n, np.inf)
    for i in order:
        c, at = waiting[i], home[i]
        decode_alone(world, c, alone)
        stays = at >= 0 and world.prefills[at].up == 1
        if stays:  # for the time of the choice all others look busy for ever
            free[:] = timeline.free_ms
            timeline.free_ms[:] = np.inf
            timeline.free_ms[at] = free[at]
        best = best_pair(world, timeline, alone, c)
        if stays:
            timeline.free_ms[:] = free
        apply(world, timeline, c, best)
        prefill[i], decode[i], start[i], finish[i] = best.prefill, best.decode, best.start_ms, best.finish_ms
    return order, prefill, decode, finish, start


def home_of(snapshot: Snapshot) -> Ints:
    """Prefill replica that holds most of each waiting call's reusable prefix, by waiting position; -1 if none does."""
    calls = snapshot.calls[snapshot.waiting]
    held = np.minimum(snapshot.held_tokens[calls["prefix"]], calls["cached_tokens"][:, None])
    home: Ints = np.where(held.max(axis=1, initial=0) > 0, held.argmax(axis=1), -1)
    return home


def arrival_rank(calls: Records) -> Ints:
    """First come, first served by workflow, then by reveal: workflow arrival in whole ms, then serial."""
    whole_ms = np.floor(calls["arrival_ms"]).astype(np.int64)
    rank: Ints = (whole_ms << SERIAL_BITS) + (calls["serial"] & ((1 << SERIAL_BITS) - 1))
    return rank


def decoded_until(snapshot: Snapshot, calls: Records) -> Floats:
    """Projected end in ms of calls in decode at the present pace of their replica; nan for other stages."""
    running = calls["stage"] == DECODE
    decodes = snapshot.decodes[np.where(running, calls["decode"], 0)]
    step_ms = np.maximum(decodes["step_ms"], 1e-6)
    done = decodes["steps"] + (snapshot.now_ms - decodes["last_ms"]) / step_ms - calls["step_mark"]
    left = np.maximum(1.0, calls["predicted_tokens"] - done)
    return np.where(running, snapshot.now_ms + left * step_ms, np.nan)
