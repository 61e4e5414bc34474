"""SRPT by workflow: least remaining revealed work first, each call where it is projected to finish first.

Source: Schrage 1968 (shortest remaining processing time), applied to workflows. Label: adapted. Deviations: the
remaining work is that of the revealed calls that are not in service; started calls are not preempted; the placement is
the earliest projected finish.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, alone_ms
from hexsolve.tables import WAIT_DECODE, Floats, Records


@dataclass(frozen=True)
class Srpt:
    """Increasing remaining work of the workflow."""

    name: str = "srpt"
    replans: bool = True

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        order = np.lexsort((calls["serial"], remaining_ms(calls)))
        return plan_in_order(snapshot, order, provenance=self.name)


def remaining_ms(waiting: Records) -> Floats:
    """Σ standalone service that the waiting calls of the same workflow have left, in ms, by waiting position."""
    served = np.where(waiting["stage"] == WAIT_DECODE, waiting["service_ms"], 0.0)
    left = np.maximum(1.0, alone_ms(waiting) - served)
    remaining: Floats = np.bincount(waiting["workflow"], left)[waiting["workflow"]]
    return remaining
