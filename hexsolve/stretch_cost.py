"""What projected ratios cost: the epoch objective, for whole plans as for problems. Knows ratios; knows no solver.

    total = Σ_w g(R_w / reference),   g(x) = x^k on [low, high], its tangents beyond, at least 0

R_w is the largest projected ratio of the waiting calls of workflow w. Straight beyond `high`, so that one workflow that
is lost does not outweigh all others.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints
from hexsolve_models import Objective, power

Flags = npt.NDArray[np.bool_]

_LOW, _HIGH = 0.15, 1.25  # 24 tangents between err by 1.3 % for k = 4, 3 % for k = 6
_SCALE = 10**7  # cost of a workflow at the reference, in a problem
_LOST = 100  # lost workflows count for as much as one that can still be saved


@dataclass(frozen=True)
class StretchCost:
    """The curve.

    Attributes
    ----------
    exponent : k >= 1.
    reference : ratio, > 0, at which a workflow costs 1.
    target : deadline mode: workflows that cannot meet this ratio any more count for a hundredth; None: all count alike.
    """

    exponent: int
    reference: float
    target: float | None = None

    @staticmethod
    def around(snapshot: Snapshot, plan: Plan, exponent: int, target: float | None = None) -> "StretchCost":
        """The curve whose reference is the largest projected ratio of `plan`, or the target where there is one."""
        if target is not None:
            return StretchCost(exponent, target, target)
        placed = np.isfinite(plan.finish_ms)
        ratio = ratios(snapshot, plan.rows[placed], plan.finish_ms[placed])
        return StretchCost(exponent, max(1e-9, float(ratio.max(initial=1e-9))))

    def total(self, worst: Floats, is_lost: Flags | bool = False) -> float:
        """Cost of workflows with these largest ratios, [W]; `is_lost` as `lost` tells."""
        x, k = worst / self.reference, self.exponent
        inside = np.clip(x, _LOW, _HIGH)
        cost = inside**k + k * inside ** (k - 1) * (x - inside)
        return float((np.maximum(0.0, cost) * np.where(is_lost, 1.0 / _LOST, 1.0)).sum())

    def objective(
        self,
        elapsed_ticks: Ints,
        horizon_ticks: Ints,
        tail_ticks: Ints,
        call_weight: npt.ArrayLike,
        is_lost: Flags | bool = False,
    ) -> Objective:
        """The same as tangents with integer slopes, scaled (models/README.md §3)."""
        smooth = power(
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
        share = np.broadcast_to(np.where(is_lost, _LOST, 1), len(smooth.slope))[:, None]
        return replace(smooth, slope=-(-smooth.slope // share), intercept=smooth.intercept // share)


def lost(snapshot: Snapshot, rows: Ints, target: float | None) -> Flags:
    """Whether calls would end, even alone and at once, after `target` times what their workflows have revealed.

    What is revealed later can bring a workflow back. Never, without a target.
    """
    calls = snapshot.calls[rows]
    if target is None:
        return np.zeros(len(rows), dtype=np.bool_)
    own_ms = calls["alone_finish_ms"] - calls["alone_start_ms"]
    is_lost: Flags = snapshot.now_ms + own_ms > calls["arrival_ms"] + target * calls["horizon_ms"]
    return is_lost


def ratios(snapshot: Snapshot, rows: Ints, finish_ms: Floats) -> Floats:
    """R of calls that finish then: (finish + rest of the workflow - its arrival) / its whole standalone makespan.

    HexAGenT's eq. 2 where nothing is known beyond the revealed part: then the rest is 0 and the makespan H_w(t).
    """
    tail_ms, whole_ms = snapshot.outlook
    ratio: Floats = (finish_ms + tail_ms[rows] - snapshot.calls["arrival_ms"][rows]) / whole_ms[rows]
    return ratio
