"""List planners on the projection: by largest projected risk (HexAGenT) or in a given order (every other list policy).

Knows the projection and the snapshot; knows nothing of why an order was chosen.
"""

import numpy as np

from hexsolve.jit import kernel
from hexsolve.policy import Plan
from hexsolve.projection import (
    Placed,
    World,
    apply,
    best_pair,
    can_hold,
    decode_alone,
    given_pair,
    open_timeline,
    projected_risk,
    sorted_order,
)
from hexsolve.snapshot import Snapshot
from hexsolve.tables import WAIT_DECODE, Floats, Ints

KernelPlan = tuple[Ints, Ints, Ints, Floats, Floats]  # order, prefill, decode, finish_ms, start_ms; by waiting position


@kernel
def _plan_by_risk(
    world: World,
    waiting: Ints,
    recompute_limit: int,
) -> KernelPlan:
    calls, decodes = world.calls, world.decodes
    n = waiting.shape[0]
    timeline = open_timeline(world, n, np.empty((calls.shape[0], 2)))
    alone = np.empty((n, decodes.shape[0]))
    order = np.empty(n, dtype=np.int64)
    prefill = np.full(n, -1, dtype=np.int64)
    decode = np.full(n, -1, dtype=np.int64)
    end, start, finish, risk = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        decode_alone(world, waiting[i], alone[i])
        best = best_pair(world, timeline, alone[i], waiting[i])
        prefill[i], decode[i] = best.prefill, best.decode
        end[i], start[i], finish[i] = best.prefill_end_ms, best.start_ms, best.finish_ms
        risk[i] = projected_risk(world, waiting[i], best.finish_ms)
    if n > recompute_limit:
        ranked = sorted_order(-risk)
        for x in range(n):
            i = ranked[x]
            order[x] = i
            best = best_pair(world, timeline, alone[i], waiting[i])
            apply(world, timeline, waiting[i], best)
            prefill[i], decode[i], start[i], finish[i] = best.prefill, best.decode, best.start_ms, best.finish_ms
        return order, prefill, decode, finish, start
    left = np.arange(n)
    for x in range(n):
        at = 0
        for y in range(1, n - x):
            if risk[left[y]] > risk[left[at]]:
                at = y
        i = left[at]
        for y in range(at, n - x - 1):  # keep the remaining rows in index order, so that ties stay deterministic
            left[y] = left[y + 1]
        order[x] = i
        apply(world, timeline, waiting[i], Placed(prefill[i], decode[i], end[i], start[i], finish[i]))
        for y in range(n - x - 1):
            k = left[y]
            # Placing a call only delays what shares its prefill or its decode replica: other best pairs stand.
            if decode[k] == decode[i] or (prefill[i] >= 0 and prefill[k] == prefill[i]):
                best = best_pair(world, timeline, alone[k], waiting[k])
                prefill[k], decode[k] = best.prefill, best.decode
                end[k], start[k], finish[k] = best.prefill_end_ms, best.start_ms, best.finish_ms
                risk[k] = projected_risk(world, waiting[k], best.finish_ms)
    return order, prefill, decode, finish, start


@kernel
def place_in_order(
    world: World,
    waiting: Ints,
    order: Ints,
    fixed_prefill: Ints,
    fixed_decode: Ints,
) -> KernelPlan:
    calls, prefills, decodes = world.calls, world.prefills, world.decodes
    n = waiting.shape[0]
    timeline = open_timeline(world, order.shape[0], np.empty((calls.shape[0], 2)))
    alone = np.empty(decodes.shape[0])
    prefill, decode = fixed_prefill.copy(), fixed_decode.copy()
    start, finish = np.full(n, np.inf), np.full(n, np.inf)
    for i in order:
        c = waiting[i]
        p, d = fixed_prefill[i], fixed_decode[i]
        given = calls[c].stage != WAIT_DECODE and p >= 0 and d >= 0
        if given and prefills[p].up == 1 and can_hold(world, c, d):
            best = given_pair(world, timeline, c, p, d)
        else:
            decode_alone(world, c, alone)
            best = best_pair(world, timeline, alone, c)
        apply(world, timeline, c, best)
        prefill[i], decode[i], start[i], finish[i] = best.prefill, best.decode, best.start_ms, best.finish_ms
    return order, prefill, decode, finish, start


@kernel
def _held_spans(
    world: World,
) -> Floats:
    calls = world.calls
    held = np.full((calls.shape[0], 2), np.nan)
    open_timeline(world, 0, held)
    return held


def held_spans(snapshot: Snapshot) -> Floats:
    """Projected (start, finish) in ms of the decode of every running and in-flight row, [n, 2]; nan for the others."""
    return _held_spans(world_of(snapshot))


def plan_by_risk(snapshot: Snapshot, recompute_limit: int = 128) -> Plan:
    """HexAGenT's greedy (FIELD.md §1, joint choice): pick the largest projected risk, place it, project again.

    Parameters
    ----------
    recompute_limit : above this many waiting calls the risks are sorted once instead of recomputed after each pick.
    """
    waiting = snapshot.waiting
    kernel_plan = _plan_by_risk(world_of(snapshot), waiting, int(recompute_limit))
    return to_plan(snapshot, waiting, kernel_plan, "hexagent")


def plan_in_order(
    snapshot: Snapshot,
    order: Ints,
    *,
    prefill: Ints | None = None,
    decode: Ints | None = None,
    rank: Ints | None = None,
    provenance: str = "in_order",
) -> Plan:
    """Give each waiting call, in `order`, its earliest projected finish, or the placement that is fixed for it.

    Parameters
    ----------
    order : int64 [<= n] positions in `snapshot.waiting`, most urgent first. What it leaves out keeps its fixed
        placement and is not projected; then `rank` must be given.
    prefill, decode : int64 [n] fixed placement by waiting position, -1 = choose; default: choose all. A pair with a
        replica that is down or too small is chosen anew; indices beyond the pools are the caller's mistake.
    rank : int64 [n] local queue priorities by waiting position; default: the position in `order`.
    """
    waiting = snapshot.waiting
    order = np.ascontiguousarray(order, np.int64)
    # One array type only: another layout would be compiled anew, in the middle of serving.
    fixed = [
        np.full(len(waiting), -1, dtype=np.int64) if column is None else np.ascontiguousarray(column, np.int64)
        for column in (prefill, decode)
    ]
    kernel_plan = place_in_order(world_of(snapshot), waiting, order, *fixed)
    return to_plan(snapshot, waiting, kernel_plan, provenance, rank)


def world_of(snapshot: Snapshot) -> World:
    """What the kernels read of a snapshot. A tuple of a fixed make: other types would be compiled anew."""
    tables = snapshot.tables
    return World(
        float(snapshot.now_ms),
        snapshot.calls,
        snapshot.prefill_ms,
        snapshot.held_tokens,
        snapshot.prefills,
        snapshot.decodes,
        tables.pair,
        tables.knots,
        tables.knot_count,
        tables.grid,
    )


def to_plan(
    snapshot: Snapshot, waiting: Ints, kernel_plan: KernelPlan, provenance: str, rank: Ints | None = None
) -> Plan:
    order, prefill, decode, finish_ms, start_ms = kernel_plan
    if rank is None:
        rank = np.empty(len(waiting), dtype=np.int64)
        rank[order] = np.arange(len(waiting))
    return Plan(
        rows=waiting,
        serials=snapshot.calls["serial"][waiting],
        slots=snapshot.calls["slot"][waiting],
        prefill=prefill,
        decode=decode,
        rank=rank,
        finish_ms=finish_ms,
        start_ms=start_ms,
        provenance=provenance,
    )
