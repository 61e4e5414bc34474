"""HEFT on the revealed graph: largest upward rank first, each call where it is projected to finish first.

Source: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for heterogeneous computing",
IEEE TPDS 13(3), 2002, §4.2. Label: adapted. The upward rank of a task is its mean execution time plus the largest
communication time plus upward rank of its successors. Deviations: a waiting call has no revealed successor, so its rank
is its own mean time over all pairs (prefill, transfer, decode alone); nothing is inserted into idle gaps that lie
before placed calls of the same prefill replica. HEFT minimises the makespan of one graph: over many workflows the
longest call first is no rule for stretch, and docs/policies.md shows it.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints


@dataclass(frozen=True)
class Heft:
    """Decreasing upward rank."""

    name: str = "heft"
    replans: bool = True

    def plan(self, snapshot: Snapshot) -> Plan:
        rows = snapshot.waiting
        rank = mean_time_ms(snapshot, rows)
        serial = snapshot.calls["serial"][rows]
        return plan_in_order(snapshot, np.lexsort((serial, -rank)), provenance=self.name)


def mean_time_ms(snapshot: Snapshot, rows: Ints) -> Floats:
    """Prefill, transfer and decode alone of each row, in ms, each a mean over the replicas; [n]."""
    calls, tables = snapshot.calls[rows], snapshot.tables
    latency, per_token = tables.pair.mean(axis=(1, 2))
    step_ms = tables.grid[tables.decode_kind, 0, 0].mean()  # a batch of one without context
    prefill = snapshot.prefill_ms[rows][:, tables.prefill_kind, 0].mean(axis=1)
    total: Floats = prefill + latency + per_token * calls["input_tokens"] + step_ms * calls["predicted_tokens"]
    return total
