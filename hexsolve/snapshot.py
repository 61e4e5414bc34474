"""What is known at one moment, frozen. Knows no true output length and no call that is not revealed."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hexsolve.jit import kernel
from hexsolve.tables import DECODE, EMPTY, WAIT_DECODE, WAIT_PREFILL, ClusterTables, Floats, Ints, Records


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copy of the cluster state at `now_ms`; every array is private to it.

    Attributes
    ----------
    calls : records [n] of `CALL_DTYPE`, every live call.
    prefill_ms : float64 [n, prefill kinds, 2]; [..., 0] nothing cached, [..., 1] the reusable prefix is held.
    held_tokens : int64 [prefix groups, P], tokens of each group (`calls.prefix`) that each prefill replica holds.
    prefills : records [P] of `PREFILL_DTYPE`; decodes : records [D] of `DECODE_DTYPE`.
    revision : the state's revision; a plan made for it is adopted only by calls that still wait.
    names : (workflow_id, request_id) by row, or empty when not asked for.
    """

    now_ms: float
    revision: int
    tables: ClusterTables
    calls: Records
    prefill_ms: Floats
    held_tokens: Ints
    prefills: Records
    decodes: Records
    names: tuple[tuple[str, str], ...] = ()

    @cached_property
    def waiting(self) -> Ints:
        """Rows of calls that a plan may still place or re-order: free (WAIT_PREFILL) and locked (WAIT_DECODE)."""
        return _waiting(self.calls)

    @cached_property
    def outlook(self) -> tuple[Floats, Floats]:
        """[n] expected standalone ms after each call, and of its whole workflow: as declared, else as learned."""
        calls = self.calls
        live = np.flatnonzero(calls["stage"] != EMPTY)
        workflow = calls["workflow"][live]
        longest = np.zeros(int(workflow.max(initial=-1)) + 1)
        np.maximum.at(longest, workflow, np.maximum(calls["whole_ms"], calls["horizon_ms"] + calls["rest_ms"])[live])
        whole_ms = np.ones(len(calls))
        whole_ms[live] = longest[workflow]
        return calls["tail_ms"] + calls["rest_ms"], whole_ms

    @property
    def free(self) -> Ints:
        """Rows of calls that wait for prefill: any feasible pair may be chosen."""
        return np.flatnonzero(self.calls["stage"] == WAIT_PREFILL)

    @property
    def running(self) -> Ints:
        """Rows of calls in decode."""
        return np.flatnonzero(self.calls["stage"] == DECODE)


def alone_ms(calls: Records) -> Floats:
    """Service of each call in its workflow's standalone schedule, in ms: what it takes without any other workflow."""
    service: Floats = calls["alone_finish_ms"] - calls["alone_start_ms"]
    return service


def prefill_times(snapshot: Snapshot, rows: Ints) -> Floats:
    """[N, P] ms of prefill on each replica, given the prefix that it holds; inf on replicas that are down."""
    kind = snapshot.prefills["kind"]
    full, cached = snapshot.prefill_ms[rows][:, kind, 0], snapshot.prefill_ms[rows][:, kind, 1]
    reusable = snapshot.calls["cached_tokens"][rows][:, None]
    held = np.minimum(snapshot.held_tokens[snapshot.calls["prefix"][rows]], reusable)
    ms = full - (full - cached) * held / np.maximum(reusable, 1)
    return np.where(snapshot.prefills["up"][None, :] == 1, ms, np.inf)


@kernel
def _waiting(calls: Records) -> Ints:
    rows, n = np.empty(calls.shape[0], dtype=np.int64), 0
    for c in range(calls.shape[0]):
        stage = calls[c].stage
        if stage in (WAIT_PREFILL, WAIT_DECODE):
            rows[n] = c
            n += 1
    return rows[:n]
