"""ThunderAgent-style admission: programs run while their working sets fit, the others are paused behind them.

Source: ThunderAgent (arXiv 2602.13692). Label: inspired. Programs are admitted, those with calls in service first, then
the oldest, while the KV blocks of their live calls fit into `threshold` of the decode replicas' capacity. Paused ones
come behind all admitted ones; they are placed by best fit, largest first, on the decode replica with the least room
that takes them at once.

Deviations: a paused program is not held back when nothing else waits, since every placeable call has a place and the
serving system runs the first in its queue; a program that acts (waits for a tool) holds no KV on a decode replica here,
so there is nothing to pause in it: what is left of "pause the smallest acting program, resume the reasoning ones first"
is that programs in service stay admitted; admitted calls go to the earliest projected finish.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hexsolve.policies._checks import expect_share
from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import EMPTY, WAIT_PREFILL, Records


@dataclass(frozen=True)
class ThunderAgent:
    """`threshold` in [0, 1]: share of the KV capacity that admitted programs may need; `best_fit` for paused ones."""

    threshold: float = 0.9
    best_fit: bool = True
    name: str = "thunder-agent"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_share("threshold", self.threshold)

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        paused = self._paused(snapshot, calls)
        size = np.where(paused, -calls["kv_blocks"], 0)
        rank = np.empty(len(calls), dtype=np.int64)
        rank[np.lexsort((calls["serial"], calls["arrival_ms"], size, paused))] = np.arange(len(calls))

        def choose(outlook: Outlook) -> tuple[int, int]:
            p, d = outlook.soonest()
            return p, _tightest(outlook, d) if self.best_fit and paused[outlook.position] else d

        return dispatch(snapshot, rank, choose, self.name)

    def _paused(self, snapshot: Snapshot, waiting: Records) -> NDArray[np.bool_]:
        """Whether the program of each waiting call is paused."""
        live = snapshot.calls[snapshot.calls["stage"] != EMPTY]
        size = np.bincount(live["workflow"], live["kv_blocks"])
        arrival, in_service = np.zeros(len(size)), np.zeros(len(size), dtype=bool)
        arrival[live["workflow"]] = live["arrival_ms"]
        in_service[live["workflow"][live["stage"] != WAIT_PREFILL]] = True
        programs, first = np.unique(live["workflow"][np.argsort(live["serial"])], return_index=True)
        programs = programs[np.lexsort((first, arrival[programs], ~in_service[programs]))]
        up = snapshot.decodes["up"] == 1
        capacity = self.threshold * float(snapshot.decodes["capacity_blocks"][up].sum())
        admitted = np.zeros(len(size), dtype=bool)
        admitted[programs[np.cumsum(size[programs]) <= capacity]] = True
        paused: NDArray[np.bool_] = ~admitted[waiting["workflow"]]
        return paused


def _tightest(outlook: Outlook, otherwise: int) -> int:
    """The decode replica with the least room among those that can take the call now; `otherwise` if none can."""
    room = outlook.snapshot.decodes["capacity_blocks"] - outlook.loads.decode_blocks - outlook.call["kv_blocks"]
    takes = outlook.fits & (room >= 0)
    return int(np.argmin(np.where(takes, room, np.inf))) if takes.any() else otherwise
