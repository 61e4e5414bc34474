"""What projected ratios cost: the epoch objective, for whole plans as for problems. Knows ratios; knows no solver.

    total = Σ_w g(R_w / reference),   g(x) = x^k on [low, high], its tangents beyond, at least 0

R_w is the largest projected ratio of the waiting calls of workflow w. Straight beyond `high`, so that one workflow that
is lost does not outweigh all others.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints
from hexsolve_models import Objective, power

_LOW, _HIGH = 0.15, 1.25  # 24 tangents between err by 1.3 % for k = 4, 5 % for k = 8
_SCALE = 10**7  # cost of a workflow at the reference, in a problem


@dataclass(frozen=True)
class StretchCost:
    """The curve.

    Attributes
    ----------
    exponent : k >= 1.
    reference : ratio, > 0, at which a workflow costs 1.
    """

    exponent: int
    reference: float

    @staticmethod
    def around(snapshot: Snapshot, plan: Plan, exponent: int) -> "StretchCost":
        """The curve whose reference is the largest projected ratio of `plan`."""
        placed = np.isfinite(plan.finish_ms)
        ratio = ratios(snapshot, plan.rows[placed], plan.finish_ms[placed])
        return StretchCost(exponent, max(1e-9, float(ratio.max(initial=1e-9))))

    def total(self, worst: Floats) -> float:
        """Cost of workflows with these largest ratios, [W]."""
        x, k = worst / self.reference, self.exponent
        inside = np.clip(x, _LOW, _HIGH)
        cost = inside**k + k * inside ** (k - 1) * (x - inside)
        return float(np.maximum(0.0, cost).sum())

    def objective(
        self, elapsed_ticks: Ints, horizon_ticks: Ints, tail_ticks: Ints, call_weight: npt.ArrayLike
    ) -> Objective:
        """The same as tangents with integer slopes, scaled (models/README.md §3)."""
        return power(
            elapsed_ticks,
            horizon_ticks,
            tail_ticks,
            k=self.exponent,
            reference=self.reference,
            scale=_SCALE,
            low=_LOW,
            high=_HIGH,
            call_weight=call_weight,
        )


def ratios(snapshot: Snapshot, rows: Ints, finish_ms: Floats) -> Floats:
    """R of calls that finish then: (finish + rest of the workflow - its arrival) / its whole standalone makespan.

    HexAGenT's eq. 2 where nothing is known beyond the revealed part: then the rest is 0 and the makespan H_w(t).
    """
    tail_ms, whole_ms = snapshot.outlook
    ratio: Floats = (finish_ms + tail_ms[rows] - snapshot.calls["arrival_ms"][rows]) / whole_ms[rows]
    return ratio
