"""What is true of a workload and no scheduler can know at the time: all that is still to come of each workflow.

Knows the offline problem alone; knows no schedule.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.tables import Floats, Ints
from hexsolve_models.offline import OfflineProblem


@dataclass(frozen=True, eq=False)
class Foresight:
    """Calls are numbered workflow by workflow, in workload order; times are in ticks of the problem.

    Attributes
    ----------
    first : i8[W + 1], number of each workflow's first call, and N. workflow : i8[N].
    release : f8[W], arrivals. reference : f8[W] > 0, H_w.
    tail : f8[N], least time from a call's reveal to the end of its workflow, tools included.
    work : f8[N] > 0, time that the scarcer pool as a whole spends on the call in full batches.
    total_work : f8[W], `work` of all calls of each workflow.
    """

    first: Ints
    workflow: Ints
    release: Floats
    reference: Floats
    tail: Floats
    work: Floats
    total_work: Floats

    @property
    def num_workflows(self) -> int:
        return len(self.release)


def foresee(problem: OfflineProblem) -> Foresight:
    """Look ahead in an instance as `hexsolve.offline.offline_problem` makes it (calls sorted by workflow)."""
    counts = np.bincount(problem.workflow, minlength=problem.num_workflows)
    first = np.concatenate(([0], np.cumsum(counts)))
    work = max(_pool(problem.prefill_work), _pool(problem.decode_work), key=lambda pool: float(pool.sum()))
    return Foresight(
        first=first,
        workflow=problem.workflow,
        release=problem.release_tick.astype(np.float64),
        reference=problem.reference_ticks.astype(np.float64),
        tail=_tails(problem),
        work=work,
        total_work=np.add.reduceat(work, first[:-1]),
    )


def _tails(problem: OfflineProblem) -> Floats:
    """By call: its fastest prefill, transfer and decode, and the longest way behind it."""
    prefill, decode = _least(problem.prefill_ticks), _least(problem.decode_ticks)
    tails = prefill + decode + float(problem.transfer_base_ticks.min())
    for c in reversed(problem.topological):
        tails[c] += max((lag + tails[child] for child, lag in problem.children[c]), default=0.0)
    return tails


def _least(ticks: Ints) -> Floats:
    least: Floats = np.where(ticks < 0, np.inf, ticks).min(axis=1)
    return least


def _pool(ticks: Ints) -> Floats:
    """1 / Σ 1/ticks over the replicas: all of them busy with parts of the call. Nothing counts as less than 0.01."""
    work: Floats = 1.0 / np.where(ticks < 0, 0.0, 1.0 / np.maximum(0.01, ticks)).sum(axis=1)
    return work
