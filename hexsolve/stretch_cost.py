"""What projected ratios cost: the epoch objective, for whole plans as for problems. Knows ratios; knows no solver.

    total = Σ_w v_w · g(R_w / reference),   g(x) = x^k on [low, high], its tangents beyond, at least 0
    v_w ~ (R⁰_w + wait)^urgency,            R⁰_w = the ratio if nothing had to wait from now on

R_w is the largest projected ratio of the waiting calls of workflow w. What a ms more costs a workflow is told mostly by
how late it is already (v_w), as in the generalised cμ rule (van Mieghem, Ann. Appl. Probab. 5, 1995), and only a little
by what this one plan projects (k): in a burst a high power of the projected ratio puts off whatever is not last, until
it is. `g` is straight beyond `high`, so that one workflow that is lost does not outweigh all others.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, alone_ms
from hexsolve.tables import Floats, Ints
from hexsolve_models import Objective, power

Flags = npt.NDArray[np.bool_]

URGENCY, WAIT = 5.0, 0.25  # of v_w and of `lookahead`; WAIT in units of R: what a workflow will wait yet
_LOW, _HIGH = 0.15, 1.25  # 24 tangents between err by 0.3 % for k = 2, 1.3 % for k = 4, 5 % for k = 8
_SCALE = 10**8  # cost of a workflow of worth 1 at the reference, in a problem
_LOST = 0.01  # worth of a lost workflow


@dataclass(frozen=True)
class StretchCost:
    """The curve.

    Attributes
    ----------
    exponent : k >= 1.
    reference : ratio, > 0, at which a workflow of worth 1 costs 1.
    urgency : >= 0; 0: all workflows have worth 1.
    latest : R⁰ of a workflow of worth 1, > 0.
    target : deadline mode: workflows that cannot meet this ratio count for a hundredth, all others alike; None:
        worth by urgency.
    """

    exponent: int
    reference: float
    urgency: float = 0.0
    latest: float = 1.0
    target: float | None = None

    @staticmethod
    def around(
        snapshot: Snapshot, plan: Plan, exponent: int, urgency: float = 0.0, target: float | None = None
    ) -> "StretchCost":
        """The curve whose reference is the largest projected ratio of `plan`, or the target where there is one."""
        if target is not None:
            return StretchCost(exponent, target, target=target)
        placed = np.isfinite(plan.finish_ms)
        rows = plan.rows[placed]
        ratio = ratios(snapshot, rows, plan.finish_ms[placed])
        latest = float(ratios_if_alone(snapshot, rows).max(initial=1e-9))
        return StretchCost(exponent, max(1e-9, float(ratio.max(initial=1e-9))), urgency, max(1e-9, latest))

    def worth(self, snapshot: Snapshot, rows: Ints, workflow: Ints, num_workflows: int) -> Floats:
        """[W] what workflows count for, in (0, 1]; row `rows[i]` is a waiting call of workflow `workflow[i]` < W."""
        worth = np.ones(num_workflows)
        if self.target is not None:
            worth[workflow[lost(snapshot, rows, self.target)]] = _LOST
        elif self.urgency:
            alone = np.zeros(num_workflows)
            np.maximum.at(alone, workflow, ratios_if_alone(snapshot, rows))
            worth = ((np.minimum(alone, self.latest) + WAIT) / (self.latest + WAIT)) ** self.urgency
        return worth

    def total(self, worst: Floats, worth: Floats | float = 1.0) -> float:
        """Cost of workflows with these largest ratios, [W], and of this worth."""
        x, k = worst / self.reference, self.exponent
        inside = np.clip(x, _LOW, _HIGH)
        cost = inside**k + k * inside ** (k - 1) * (x - inside)
        return float((np.maximum(0.0, cost) * worth).sum())

    def objective(
        self,
        elapsed_ticks: Ints,
        horizon_ticks: Ints,
        tail_ticks: Ints,
        call_weight: npt.ArrayLike,
        worth: Floats | float = 1.0,
    ) -> Objective:
        """The same as tangents with integer slopes, scaled (models/README.md §3)."""
        return power(
            elapsed_ticks,
            horizon_ticks,
            tail_ticks,
            k=self.exponent,
            reference=self.reference,
            scale=_SCALE * np.asarray(worth),
            low=_LOW,
            high=_HIGH,
            call_weight=call_weight,
        )


def lost(snapshot: Snapshot, rows: Ints, target: float) -> Flags:
    """Whether calls would end, even alone and at once, after `target` times what their workflows have revealed.

    What is revealed later can bring a workflow back.
    """
    calls = snapshot.calls[rows]
    is_lost: Flags = snapshot.now_ms + alone_ms(calls) > calls["arrival_ms"] + target * calls["horizon_ms"]
    return is_lost


def ratios(snapshot: Snapshot, rows: Ints, finish_ms: Floats) -> Floats:
    """R of calls that finish then: (finish + rest of the workflow - its arrival) / its whole standalone makespan.

    HexAGenT's eq. 2 where nothing is known beyond the revealed part: then the rest is 0 and the makespan H_w(t).
    """
    tail_ms, whole_ms = snapshot.outlook
    ratio: Floats = (finish_ms + tail_ms[rows] - snapshot.calls["arrival_ms"][rows]) / whole_ms[rows]
    return ratio


def ratios_if_alone(snapshot: Snapshot, rows: Ints) -> Floats:
    """R of calls that start now and run alone: what has been waited, and nothing that will be."""
    return ratios(snapshot, rows, snapshot.now_ms + alone_ms(snapshot.calls[rows]))
