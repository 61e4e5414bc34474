"""Workflow-LLF: least laxity first, each call where it is projected to finish first.

Source: HexAGenT §7.2 (arXiv 2605.16637). Label: adapted. laxity = a_w + α·H_w(t) - now - remaining, remaining = the
standalone service of the waiting call. Deviations: the paper does not state α (2 here) nor the dispatch rule (earliest
projected finish here, stronger than load balancing). Every waiting call is planned anew each time.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.errors import InputError
from hexsolve.listplan import plan_in_order
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, alone_ms


@dataclass(frozen=True)
class WorkflowLlf:
    """Least laxity first. `alpha` is the SLO scale of the due date a_w + α·H_w(t), > 0."""

    alpha: float = 2.0
    name: str = "workflow-llf"
    replans: bool = True

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise InputError(f"alpha = {self.alpha}: expected a number > 0")

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        due = calls["arrival_ms"] + self.alpha * calls["horizon_ms"]
        laxity = due - snapshot.now_ms - alone_ms(calls)
        return plan_in_order(snapshot, np.lexsort((calls["serial"], laxity)), provenance=self.name)
