"""Workflow-EDF: earliest due date first, each call where it is projected to finish first.

Source: earliest due date (Jackson 1955), with the due date a_w + α·H_w(t) of HexAGenT §7.2 (arXiv 2605.16637). Label:
adapted. Deviations: H_w(t) is the horizon of what is revealed, so due dates move when calls are revealed; α is not in a
source (docs/policies.md has the sweep); earliest projected finish instead of a dispatch rule.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies._checks import expect_positive
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class WorkflowEdf:
    """Earliest due date first. `alpha` is the SLO scale of the due date, > 0."""

    alpha: float = 2.0
    name: str = "workflow-edf"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("alpha", self.alpha)

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        due = calls["arrival_ms"] + self.alpha * calls["horizon_ms"]
        return plan_in_order(snapshot, np.lexsort((calls["serial"], due)), provenance=self.name)
