"""Workflow-triage: earliest due date first among workflows that can make it, then the others, shortest first.

Source: the idea of Moore and Hodgson (Management Science 15, 1968): the fewest late jobs come from giving up jobs, not
from sharing delay. Label: inspired. A workflow is given up where even alone the call would end after a_w + α·H_w(t),
HexAGenT's due date (arXiv 2605.16637 §7.2); due dates move when calls are revealed, so what was given up can come back.
For a fixed target α only: what is given up waits long, which Req95 and Req99 show.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies._checks import expect_positive
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, alone_ms
from hexsolve.stretch_cost import lost


@dataclass(frozen=True)
class WorkflowTriage:
    """`alpha` is the SLO scale to be met, > 0."""

    alpha: float = 2.0
    name: str = "workflow-triage"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("alpha", self.alpha)

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        own_ms = alone_ms(calls)
        due_ms = calls["arrival_ms"] + self.alpha * calls["horizon_ms"]
        is_lost = lost(snapshot, snapshot.waiting, self.alpha)
        key = np.where(is_lost, own_ms, due_ms)
        return plan_in_order(snapshot, np.lexsort((calls["serial"], key, is_lost)), provenance=self.name)
