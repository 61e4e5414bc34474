"""Workflow-FCFS: the oldest workflow first, each new call where it is projected to finish first.

Source: HexAGenT §7.2 (arXiv 2605.16637), baseline "workflow-FCFS with load-balanced dispatch". Label: adapted.
Deviation: the paper dispatches to the least outstanding work; here a new call gets the earliest projected finish of the
same projection that HexAGenT uses, which is stronger. A call keeps its placement once it has one.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.jit import kernel
from hexsolve.listplan import KernelPlan, place_in_order, to_plan, world_of
from hexsolve.policy import Plan
from hexsolve.projection import World, sorted_order
from hexsolve.snapshot import Snapshot
from hexsolve.tables import UNRANKED, Ints, Records

SERIAL_BITS = 20


@dataclass(frozen=True)
class WorkflowFcfs:
    """First come, first served by workflow arrival (to the millisecond), then by reveal."""

    name: str = "workflow-fcfs"
    replans: bool = False

    def plan(self, snapshot: Snapshot) -> Plan:
        rank, kernel_plan = _plan(world_of(snapshot), snapshot.waiting)
        return to_plan(snapshot, snapshot.waiting, kernel_plan, self.name, rank)


@kernel
def _by_arrival(calls: Records, waiting: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Ranks, who is to be projected in this order, and the placements that waiting calls have so far.

    A rank stays comparable between epochs: workflow arrival in whole ms, then order of reveal. Calls that keep their
    placement matter only to new calls behind them: the last new one ends the projection.
    """
    n = waiting.shape[0]
    rank, prefill, decode = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    last_new = UNRANKED
    for i in range(n):
        call = calls[waiting[i]]
        rank[i] = (int(np.floor(call.arrival_ms)) << SERIAL_BITS) + (call.serial & ((1 << SERIAL_BITS) - 1))
        prefill[i], decode[i] = call.prefill, call.decode
        if call.prefill < 0:
            last_new = max(last_new, rank[i])
    ahead = np.empty(n, np.int64)
    count = 0
    for i in sorted_order(rank):
        if rank[i] <= last_new:
            ahead[count] = i
            count += 1
    return rank, ahead[:count], prefill, decode


@kernel
def _plan(world: World, waiting: Ints) -> tuple[Ints, KernelPlan]:
    """Ranks and placements in one compiled call: this is what most of a decision's time goes to."""
    rank, ahead, prefill, decode = _by_arrival(world.calls, waiting)
    return rank, place_in_order(world, waiting, ahead, prefill, decode)
