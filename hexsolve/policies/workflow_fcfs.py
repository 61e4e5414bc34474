"""Workflow-FCFS: the oldest workflow first, each new call where it is projected to finish first.

Source: HexAGenT §7.2 (arXiv 2605.16637), baseline "workflow-FCFS with load-balanced dispatch". Label: adapted.
Deviation: the paper dispatches to the least outstanding work; here a new call gets the earliest projected finish of the
same projection that HexAGenT uses, which is stronger. A call keeps its placement once it has one.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Ints

SERIAL_BITS = 20


@dataclass(frozen=True)
class WorkflowFcfs:
    """First come, first served by workflow arrival (to the millisecond), then by reveal."""

    name: str = "workflow-fcfs"
    replans: bool = False

    def plan(self, snapshot: Snapshot) -> Plan:
        rows = snapshot.waiting
        calls = snapshot.calls
        rank = arrival_rank(snapshot)[rows]
        order = np.argsort(rank, kind="stable")
        return plan_in_order(
            snapshot,
            order,
            prefill=calls["prefill"][rows],
            decode=calls["decode"][rows],
            rank=rank,
            provenance=self.name,
        )


def arrival_rank(snapshot: Snapshot) -> Ints:
    """[n] rank that stays comparable between epochs: workflow arrival in whole ms, then order of reveal."""
    calls = snapshot.calls
    arrival = np.floor(calls["arrival_ms"]).astype(np.int64)
    rank: Ints = (arrival << SERIAL_BITS) + (calls["serial"] & ((1 << SERIAL_BITS) - 1))
    return rank
