"""A placement as a serving system reads it: names instead of indices, and why. Decides nothing."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hexsolve.policy import Plan
from hexsolve.state import ClusterState
from hexsolve.tables import WAIT_DECODE, WAIT_PREFILL


@dataclass(frozen=True)
class Placement:
    """Where one waiting call goes.

    Attributes
    ----------
    prefill : prefill replica; None for a locked call, whose prefill is done.
    decode : decode replica.
    priority : place in the local queues, smaller first.
    projected_finish_ms : projected end of decode, on the caller's clock; inf if the policy projects nothing.
    projected_ratio : R = (projected finish - workflow arrival) / standalone horizon (HexAGenT eq. 2).
    provenance : the component that made the plan; receipt : its numbers, shared by all calls of the epoch.
    """

    workflow_id: str
    request_id: str
    prefill: str | None
    decode: str
    priority: int
    projected_finish_ms: float
    projected_ratio: float
    provenance: str
    receipt: dict[str, Any]

    @property
    def reason(self) -> str:
        """Why the call went there, in one sentence."""
        stage = (
            f"decode on {self.decode}" if self.prefill is None else f"prefill on {self.prefill}, {self.decode} decodes"
        )
        text = f"{stage}, place {self.priority}: planned by {self.provenance}"
        if np.isfinite(self.projected_finish_ms):
            text += f", projected finish {self.projected_finish_ms:.0f} ms, ratio {self.projected_ratio:.2f}"
        outcome = self.receipt.get("outcome")
        return f"{text} ({outcome})" if outcome else text


def placements(state: ClusterState, plan: Plan) -> list[Placement]:
    """Placements of the plan's calls that still wait and have a replica, most urgent first."""
    result = []
    for i in np.argsort(plan.rank, kind="stable"):
        slot = int(plan.slots[i])
        still_waits = state.serial[slot] == plan.serials[i] and state.stage[slot] in (WAIT_PREFILL, WAIT_DECODE)
        if still_waits and plan.decode[i] >= 0:
            result.append(_placement(state, plan, int(i), slot))
    return result


def _placement(state: ClusterState, plan: Plan, i: int, slot: int) -> Placement:
    workflow_id, request_id = state.name(slot)
    record = state.workflow_of(slot)
    p, finish_ms = int(plan.prefill[i]), float(plan.finish_ms[i])
    return Placement(
        workflow_id,
        request_id,
        state.cluster.prefill[p].name if p >= 0 else None,
        state.cluster.decode[int(plan.decode[i])].name,
        int(plan.rank[i]),
        finish_ms,
        (finish_ms - record.arrival_ms) / state.horizon_ms(state.workflow_slot(slot)),
        plan.provenance,
        plan.receipt,
    )
