"""WSPT by workflow: largest weight per remaining work first, with the weight 1/H_w(t) that stands for stretch.

Source: Smith 1956 (weighted shortest processing time). Label: adapted. Weighted by 1/H_w the weighted flow time is the
sum of stretches, which this rule minimises on one machine without arrivals. Deviations: work and H_w are those of the
revealed calls; no preemption; the placement is the earliest projected finish.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies.srpt import remaining_ms
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class Wspt:
    """Decreasing weight per remaining work: increasing H_w times remaining work."""

    name: str = "wspt"
    replans: bool = True

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        work_per_weight = remaining_ms(calls) * calls["horizon_ms"]
        return plan_in_order(snapshot, np.lexsort((calls["serial"], work_per_weight)), provenance=self.name)
