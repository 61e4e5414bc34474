"""From a plan to the state: may it be adopted, and who takes it? Knows nothing of why a plan is good.

Compiled, since it runs in every epoch: checking and adopting a plan costs microseconds.
"""

import numpy as np

from hexsolve.jit import kernel
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.state import ClusterState
from hexsolve.tables import UNRANKED, WAIT_DECODE, WAIT_PREFILL, Ints, Records

_OBJECTIONS = (
    "",
    "not the waiting calls",
    "columns of another length",
    "unknown replica",
    "half a placement",
    "replica that is down",
    "KV does not fit",
)


@kernel
def _objection(
    calls: Records,
    waiting: Ints,
    prefills: Records,
    decodes: Records,
    slots: Ints,
    serials: Ints,
    prefill: Ints,
    decode: Ints,
) -> int:
    if slots.shape[0] != waiting.shape[0]:
        return 1
    for i in range(waiting.shape[0]):
        call = calls[waiting[i]]
        if slots[i] != call.slot or serials[i] != call.serial:
            return 1
        p, d = prefill[i], decode[i]
        if call.stage == WAIT_PREFILL and (p != -1 or d != -1):
            if not (-1 <= p < prefills.shape[0] and -1 <= d < decodes.shape[0]):
                return 3
            if p == -1 or d == -1:
                return 4
            if prefills[p].up == 0 or decodes[d].up == 0:
                return 5
            if call.kv_blocks > decodes[d].capacity_blocks:
                return 6
    return 0


def objection(snapshot: Snapshot, plan: Plan) -> str:
    """Why a plan cannot be adopted for its snapshot; empty if it can. A call may be left without placement (-1, -1)."""
    waiting = snapshot.waiting
    slots, serials, prefill, decode, rank = _columns(plan)
    if not len(waiting) == len(serials) == len(prefill) == len(decode) == len(rank) == len(plan.finish_ms):
        return _OBJECTIONS[2]
    code = _objection(snapshot.calls, waiting, snapshot.prefills, snapshot.decodes, slots, serials, prefill, decode)
    return _OBJECTIONS[code]


def _columns(plan: Plan) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """What the kernels read, in the one array type they are compiled for."""
    return (
        np.ascontiguousarray(plan.slots, np.int64),
        np.ascontiguousarray(plan.serials, np.int64),
        np.ascontiguousarray(plan.prefill, np.int64),
        np.ascontiguousarray(plan.decode, np.int64),
        np.ascontiguousarray(plan.rank, np.int64),
    )


@kernel
def _adopt(
    table: Records, slots: Ints, serials: Ints, prefill: Ints, decode: Ints, rank: Ints, changed: Ints
) -> tuple[int, bool]:
    count, reordered = 0, False
    for i in range(slots.shape[0]):
        slot = slots[i]
        call = table[slot]
        if call.serial != serials[i] or (call.stage != WAIT_PREFILL and call.stage != WAIT_DECODE):
            continue
        if call.rank != rank[i]:
            reordered = reordered or call.rank != UNRANKED
            table[slot].rank = rank[i]
        if call.stage == WAIT_PREFILL and (call.prefill != prefill[i] or call.decode != decode[i]):
            table[slot].prefill = prefill[i]
            table[slot].decode = decode[i]
            changed[count] = slot
            count += 1
    return count, reordered


def adopt(state: ClusterState, plan: Plan) -> list[int]:
    """Calls that still wait take the plan's replicas and rank; returns the slots whose replicas changed."""
    if not len(plan):
        return []
    changed = np.empty(len(plan), dtype=np.int64)
    count, reordered = _adopt(state.table, *_columns(plan), changed)
    state.rank_revision += reordered
    result: list[int] = changed[:count].tolist()
    return result
