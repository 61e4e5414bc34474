"""MDD: smallest modified due date max(now + p, due) first, each call where it is projected to finish first.

Source: Baker, Bertrand, "A dynamic priority rule for scheduling against due-dates", J. Operations Management 3(1),
1982. Label: adapted. Early workflows go by due date, late ones by remaining work. Deviations: p is the remaining
revealed work of the workflow, due = a_w + α·H_w(t) with the revealed horizon; α is not in a source (docs/policies.md
has the sweep).
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies._checks import expect_positive
from hexsolve.policies.srpt import remaining_ms
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class Mdd:
    """Increasing modified due date. `alpha` is the SLO scale of the due date, > 0."""

    alpha: float = 3.0
    name: str = "mdd"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("alpha", self.alpha)

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        due = calls["arrival_ms"] + self.alpha * calls["horizon_ms"]
        modified = np.maximum(snapshot.now_ms + remaining_ms(calls), due)
        return plan_in_order(snapshot, np.lexsort((calls["serial"], modified)), provenance=self.name)
