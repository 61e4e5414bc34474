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
from hexsolve.tables import Floats, Ints

SERIAL_BITS = 20


@dataclass(frozen=True)
class WorkflowFcfs:
    """First come, first served by workflow arrival (to the millisecond), then by reveal."""

    name: str = "workflow-fcfs"
    replans: bool = False

    def plan(self, snapshot: Snapshot) -> Plan:
        rows = snapshot.waiting
        calls = snapshot.calls
        prefill = calls["prefill"][rows]
        rank = _arrival_rank(calls["arrival_ms"][rows], calls["serial"][rows])
        order = np.argsort(rank, kind="stable")
        # Calls that keep their placement matter only to new calls behind them: the last new one ends the projection.
        new = np.flatnonzero(prefill[order] < 0)
        ahead = order[: new[-1] + 1] if len(new) else order[:0]
        decode = calls["decode"][rows]
        return plan_in_order(snapshot, ahead, prefill=prefill, decode=decode, rank=rank, provenance=self.name)


def _arrival_rank(arrival_ms: Floats, serial: Ints) -> Ints:
    """[n] rank that stays comparable between epochs: workflow arrival in whole ms, then order of reveal."""
    arrival = np.floor(arrival_ms).astype(np.int64)
    return (arrival << SERIAL_BITS) + (serial & ((1 << SERIAL_BITS) - 1))
