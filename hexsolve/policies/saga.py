"""SAGA-style: sessions stay on their replica while it is not loaded; idle replicas steal.

Source: SAGA (arXiv 2605.00528). Label: inspired. A call goes to the prefill replica that holds its session's prefix
while that replica's load is below 0.8, else to the least loaded; a waiting call is stolen when another replica has been
idle for 100 ms or the loads differ by a factor of 2 or more. The oldest workflow goes first.

Deviations: load is the projected wait of the prefill queue over `window_ms` (docs/policies.md has the sweep); a stolen
call is dispatched again to the least loaded replica and may be stolen again; decode goes to the earliest projected
finish; the paper's fair sharing between tenants is left out, there being one tenant.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.policies._checks import expect_positive
from hexsolve.policies._dispatch import Outlook, arrival_rank, dispatch
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import WAIT_PREFILL, Ints, Records

AFFINITY_LOAD, IDLE_MS, STEAL_RATIO = 0.8, 100.0, 2.0


@dataclass(frozen=True)
class Saga:
    """`window_ms` > 0: wait that counts as load 1."""

    window_ms: float = 250.0
    name: str = "saga"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("window_ms", self.window_ms)

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        return dispatch(snapshot, arrival_rank(calls), self._choose, self.name, _stolen(snapshot, calls))

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        load = outlook.queue_ms / self.window_ms
        held = np.where(load < AFFINITY_LOAD, outlook.held, 0)
        home = int(np.argmax(held))
        p = home if held[home] > 0 else int(np.argmin(outlook.free_ms + outlook.prefill_ms))
        return p, outlook.decode_for(p)


def _stolen(snapshot: Snapshot, calls: Records) -> Ints:
    """Positions of waiting calls that another prefill replica takes over: idle for long, or loaded half as much."""
    placed = np.flatnonzero((calls["stage"] == WAIT_PREFILL) & (calls["prefill"] >= 0))
    if not len(placed):
        return placed
    at = calls["prefill"][placed]
    prefills = snapshot.prefills
    own_ms = snapshot.prefill_ms[snapshot.waiting[placed], prefills["kind"][at], 0]
    queued = np.bincount(at, own_ms, len(prefills))
    busy = np.maximum(0.0, prefills["free_ms"] - snapshot.now_ms) + queued
    busy[prefills["up"] == 0] = np.inf
    idle = (busy == 0.0) & (snapshot.now_ms - prefills["free_ms"] > IDLE_MS)
    behind = busy[at] - own_ms > 0.0  # something else is ahead of it, or it would start at once
    stolen: Ints = placed[behind & (idle.any() | (busy[at] >= STEAL_RATIO * busy.min()))]
    return stolen
