"""What a policy is and what it returns. Knows placements; knows nothing of how any policy decides."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hexsolve.snapshot import Snapshot
from hexsolve.tables import WAIT_PREFILL, Floats, Ints


@dataclass(frozen=True, eq=False)
class Plan:
    """Placements of every waiting call of one snapshot, as arrays by waiting position.

    Attributes
    ----------
    rows, serials, slots : int64 [n], snapshot row, call serial and state slot.
    prefill, decode : int64 [n] replica index; prefill is -1 for locked calls, both are -1 where no replica can take it.
    rank : int64 [n], local queue priority, smaller first, no two equal.
    finish_ms, start_ms : float64 [n], projected decode finish and start (inf where not placed).
    provenance : which component made the plan.
    receipt : why, in numbers (solver outcome, objective, bound ...); empty for list plans.
    """

    rows: Ints
    serials: Ints
    slots: Ints
    prefill: Ints
    decode: Ints
    rank: Ints
    finish_ms: Floats
    start_ms: Floats
    provenance: str
    receipt: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


def objection(snapshot: Snapshot, plan: Plan) -> str:
    """Why a plan cannot be adopted for its snapshot; empty if it can. A call may be left without placement (-1, -1)."""
    waiting = snapshot.calls[snapshot.waiting]
    if not (np.array_equal(plan.slots, waiting["slot"]) and np.array_equal(plan.serials, waiting["serial"])):
        return "not the waiting calls"
    if any(len(column) != len(waiting) for column in (plan.prefill, plan.decode, plan.rank, plan.finish_ms)):
        return "columns of another length"
    free = waiting["stage"] == WAIT_PREFILL
    prefill, decode, blocks = plan.prefill[free], plan.decode[free], waiting["kv_blocks"][free]
    if ((prefill < -1) | (prefill >= len(snapshot.prefills)) | (decode < -1) | (decode >= len(snapshot.decodes))).any():
        return "unknown replica"
    if ((prefill < 0) != (decode < 0)).any():
        return "half a placement"
    placed = decode >= 0
    if not (snapshot.prefills["up"][prefill[placed]].all() and snapshot.decodes["up"][decode[placed]].all()):
        return "replica that is down"
    if (blocks[placed] > snapshot.decodes["capacity_blocks"][decode[placed]]).any():
        return "KV does not fit"
    return ""


class Policy(Protocol):
    """`Snapshot -> Plan`. A policy sees no true output length and no unrevealed call: the snapshot has neither.

    `replans` says whether every waiting call is placed anew in each epoch (then KV arrivals are epochs too) or a call
    keeps its first placement (then ranks must stay comparable between epochs).
    """

    @property
    def name(self) -> str: ...

    @property
    def replans(self) -> bool: ...

    def plan(self, snapshot: Snapshot) -> Plan:
        """Place and order every waiting call of `snapshot`."""
        ...
