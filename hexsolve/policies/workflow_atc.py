"""Workflow-ATC: cheap delay first, the more so the closer the due date, among workflows that can still make it.

Source: apparent tardiness cost, exp(-slack / (K·p̄)) / p, Vepsalainen and Morton, "Priority Rules for Job Shops with
Weighted Tardiness Costs" (Management Science 33(8), 1987). Label: adapted. p is the remaining revealed work of the
workflow, due = a_w + α·H_w(t) with the revealed horizon. Their K·p̄ is how much work competes; here it is measured: the
standalone service of all calls that wait, over the prefill replicas. So it is by due dates while little waits, and
shortest first where much does. Calls that would be late even alone come last, shortest workflow first, as in
`workflow-triage`. For a fixed target α only: what is given up waits long, which Req95 and Req99 show.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies._checks import expect_positive
from hexsolve.policies.srpt import remaining_ms
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, alone_ms
from hexsolve.stretch_cost import lost


@dataclass(frozen=True)
class WorkflowAtc:
    """`alpha` is the SLO scale to be met, `patience` scales the backlog that slack is measured in, both > 0."""

    alpha: float = 2.0
    patience: float = 1.0
    name: str = "workflow-atc"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("alpha", self.alpha)
        expect_positive("patience", self.patience)

    def plan(self, snapshot: Snapshot) -> Plan:
        """Place and order every waiting call."""
        calls = snapshot.calls[snapshot.waiting]
        own_ms, work_ms = alone_ms(calls), remaining_ms(calls)
        slack_ms = calls["arrival_ms"] + self.alpha * calls["horizon_ms"] - snapshot.now_ms - own_ms
        is_lost = lost(snapshot, snapshot.waiting, self.alpha)
        backlog_ms = own_ms[~is_lost].sum() / max(1, len(snapshot.prefills))
        # Smallest 1 / cost first, in logarithms: slack of many backlogs is exp(-1000) and would tie.
        cheapness = np.log(work_ms) + slack_ms / max(1e-6, self.patience * backlog_ms)
        order = np.lexsort((calls["serial"], np.where(is_lost, work_ms, cheapness), is_lost))
        return plan_in_order(snapshot, order, provenance=self.name)
