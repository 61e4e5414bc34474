"""What an epoch costs. Knows workflows' finish ticks and convex cost pieces; knows nothing of replicas or solvers.

One place for the objective (models/README.md §3): with F_w = max over the waiting calls c of workflow w of
(decode finish of c + tail_ticks[c]),

    f_w(F) = max_k (slope[w, k] * F + intercept[w, k]) + late_weight[w] * [F > due_tick[w]]     non-decreasing, integer
    total  = (sum | max over w) of f_w(F_w)  +  sum_c call_weight[c] * finish_c
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Aggregate = Literal["sum", "max"]

MAX_COEFFICIENT = 2**50  # keeps slope * tick and intercepts inside int64 and one cost inside a double


_DIMENSIONS = (
    ("slope", 2),
    ("intercept", 2),
    ("tail_ticks", 1),
    ("call_weight", 1),
    ("due_tick", 1),
    ("late_weight", 1),
)


@dataclass(frozen=True, eq=False)
class Objective:
    """Cost of workflow finish ticks, convex pieces and a step at the due tick, plus a linear cost of call finishes.

    Parameters
    ----------
    slope, intercept
        int64 [workflow, piece]; slopes 0..2^50, |intercept| <= 2^50. Repeat a piece to fill a short row.
    tail_ticks
        int64 [call], >= 0: estimated rest of the workflow after the call.
    call_weight
        int64 [call], >= 0: cost per tick of the call's own finish, small, to break ties towards the mean.
    aggregate
        "sum" or "max" of the workflow costs.
    due_tick, late_weight
        int64 [workflow]: the step. |due| <= 2^50; weight 0..2^50. Default: no step anywhere.

    Raises
    ------
    ValueError
        If a shape or a range is wrong; the message names field, index, value and what was expected.
    """

    slope: Ints
    intercept: Ints
    tail_ticks: Ints
    call_weight: Ints
    aggregate: Aggregate = "sum"
    due_tick: Ints = None  # type: ignore[assignment]  # an array after construction
    late_weight: Ints = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for field in ("due_tick", "late_weight"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, np.zeros(len(self.slope), dtype=np.int64))
        for field, ndim in _DIMENSIONS:
            object.__setattr__(self, field, frozen_ints(f"objective.{field}", getattr(self, field), ndim))
        if self.slope.shape != self.intercept.shape or self.slope.shape[1] < 1:
            raise ValueError(
                f"objective.intercept has shape {self.intercept.shape}: expected the shape of slope, {self.slope.shape}"
                ", with at least one piece"
            )
        num_calls = self.tail_ticks.size
        if self.call_weight.size != num_calls:
            raise ValueError(f"objective.call_weight has {self.call_weight.size} entries: expected {num_calls}")
        for field in ("due_tick", "late_weight"):
            if getattr(self, field).size != len(self.slope):
                raise ValueError(
                    f"objective.{field} has {getattr(self, field).size} entries: expected {len(self.slope)}"
                )
        check_range("objective.slope", self.slope, 0, MAX_COEFFICIENT)
        check_range("objective.intercept", self.intercept, -MAX_COEFFICIENT, MAX_COEFFICIENT)
        check_range("objective.tail_ticks", self.tail_ticks, 0, 2**31 - 1)
        check_range("objective.call_weight", self.call_weight, 0, 2**31 - 1)
        check_range("objective.due_tick", self.due_tick, -MAX_COEFFICIENT, MAX_COEFFICIENT)
        check_range("objective.late_weight", self.late_weight, 0, MAX_COEFFICIENT)
        if self.aggregate not in ("sum", "max"):
            raise ValueError(f"objective.aggregate = {self.aggregate!r}: expected 'sum' or 'max'")

    @property
    def num_workflows(self) -> int:
        return int(self.slope.shape[0])

    def pieces(self, workflow: int) -> list[tuple[int, int]]:
        """(slope, intercept) of the convex part of f_w as Python integers."""
        return list(zip(self.slope[workflow].tolist(), self.intercept[workflow].tolist(), strict=True))

    def workflow_cost(self, workflow: int, finish_tick: int) -> int:
        """f_w(F) in exact Python integers."""
        late = int(self.late_weight[workflow]) if finish_tick > self.due_tick[workflow] else 0
        return late + max(slope * finish_tick + intercept for slope, intercept in self.pieces(workflow))

    def latest_finish(self, workflow: int, max_cost: int) -> int | None:
        """The largest F with f_w(F) <= max_cost; None if the cost never exceeds it; may be negative."""
        due, weight = int(self.due_tick[workflow]), int(self.late_weight[workflow])
        late = self._latest_convex(workflow, max_cost - weight)
        if weight == 0 or late is None or late > due:
            return late
        on_time = self._latest_convex(workflow, max_cost)
        return due if on_time is None else min(on_time, due)

    def _latest_convex(self, workflow: int, max_cost: int) -> int | None:
        if any(slope == 0 and intercept > max_cost for slope, intercept in self.pieces(workflow)):
            return -MAX_COEFFICIENT  # a flat piece alone costs more
        limits = [(max_cost - intercept) // slope for slope, intercept in self.pieces(workflow) if slope > 0]
        return min(limits, default=None)

    def live_pieces(self, workflow: int, low: int, high: int) -> list[tuple[int, int]]:
        """The (slope, intercept) that are the largest at some integer of [low, high], by walking the upper envelope."""
        pieces = self.pieces(workflow)
        steepest = max(pieces, key=lambda piece: (piece[0] * high + piece[1], piece[0]))
        current = max(pieces, key=lambda piece: (piece[0] * low + piece[1], piece[0]))
        live = [current]
        while current[0] < steepest[0]:
            # The next piece to rise strictly above the current one, the steepest of those at that integer.
            crossings = [
                ((current[1] - piece[1]) // (piece[0] - current[0]) + 1, piece)
                for piece in pieces
                if piece[0] > current[0]
            ]
            tick = min(tick for tick, _ in crossings)
            if tick > high:
                break
            current = max(pieces, key=lambda piece: (piece[0] * tick + piece[1], piece[0]))
            live.append(current)
        return live


def power(
    elapsed_ticks: npt.ArrayLike,
    horizon_ticks: npt.ArrayLike,
    tail_ticks: npt.ArrayLike,
    *,
    k: float = 8.0,
    reference: float = 1.0,
    num_pieces: int = 24,
    scale: npt.ArrayLike = 10**6,
    low: float = 0.1,
    high: float = 4.0,
    call_weight: npt.ArrayLike | None = None,
) -> Objective:
    """scale * (R / reference)^k with R = (elapsed + F) / horizon, from below by tangents of integer slope.

    Tangents touch at points spaced geometrically in R / reference over [low, high] (from the workflow's elapsed ratio
    if that is larger: it cannot fall). Every slope is rounded to an integer and the tangent is then moved to where the
    curve has exactly that slope, so no piece is above the curve; beyond `high` the cost goes on
    straight, which also bounds the coefficients. With neighbouring tangent points at ratio q the largest gap is
    1 - line / curve at their crossing: 1.7 % at q = 1.05, 6 % at 1.1, 20 % at 1.2 (k = 8). 24 pieces over the full
    range [0.1, 4] give q = 1.17 (16 %); a workflow already at half the reference has q = 1.09 (5 %).

    Parameters
    ----------
    elapsed_ticks, horizon_ticks
        [workflow]: age now (>= 0) and estimated standalone makespan (>= 1), in ticks.
    tail_ticks
        [call], see `Objective`.
    reference
        The ratio at which a workflow costs `scale`, for example the target alpha.
    scale
        Scalar or [workflow], >= 1: how much workflows count.
    """
    elapsed, horizon = _ages(elapsed_ticks, horizon_ticks)
    if k < 1 or reference <= 0 or num_pieces < 2 or not np.all(np.asarray(scale) >= 1) or not 0 < low < high:
        raise ValueError(
            f"power(k={k}, reference={reference}, num_pieces={num_pieces}, scale={scale!r}, low={low}, high={high}): "
            "expected k >= 1, reference > 0, num_pieces >= 2, scale >= 1, 0 < low < high"
        )
    unit = horizon * reference  # ticks per unit of x = R / reference
    start = np.clip(elapsed / unit, low, 0.99 * high)
    x = start[:, None] * (high / start)[:, None] ** (np.arange(num_pieces) / (num_pieces - 1))
    if k == 1:
        x = x[:, :1]  # all tangents are the curve
    scale = np.broadcast_to(scale, elapsed.shape)[:, None]
    slope = np.rint(scale * k * x ** (k - 1) / unit[:, None])
    touch = (slope * unit[:, None] / (scale * k)) ** (1 / (k - 1)) if k > 1 else x
    intercept = np.floor(scale * touch**k - slope * (touch * unit[:, None] - elapsed[:, None]))
    slope, intercept = np.insert(slope, 0, 0, axis=1), np.insert(intercept, 0, 0, axis=1)
    return _objective(slope, intercept, tail_ticks, call_weight, "sum")


def tardiness(
    elapsed_ticks: npt.ArrayLike,
    horizon_ticks: npt.ArrayLike,
    tail_ticks: npt.ArrayLike,
    *,
    alpha: float,
    scale: int = 10**9,
    call_weight: npt.ArrayLike | None = None,
) -> Objective:
    """scale * max(0, R - alpha), with the slope rounded to an integer >= 1 per workflow."""
    elapsed, horizon = _ages(elapsed_ticks, horizon_ticks)
    if alpha <= 0:
        raise ValueError(f"tardiness(alpha={alpha}): expected alpha > 0")
    slope = _stretch_slope(horizon, scale)
    due = np.floor(alpha * horizon) - elapsed
    return _objective(
        np.stack([np.zeros_like(slope), slope], axis=1),
        np.stack([np.zeros_like(slope), -slope * due], axis=1),
        tail_ticks,
        call_weight,
        "sum",
    )


def late_count(
    elapsed_ticks: npt.ArrayLike,
    horizon_ticks: npt.ArrayLike,
    tail_ticks: npt.ArrayLike,
    *,
    alpha: float,
    weight: npt.ArrayLike | int = 1,
    call_weight: npt.ArrayLike | None = None,
) -> Objective:
    """weight (int >= 0, scalar or [workflow]) for every workflow with R > alpha."""
    elapsed, horizon = _ages(elapsed_ticks, horizon_ticks)
    if alpha <= 0:
        raise ValueError(f"late_count(alpha={alpha}): expected alpha > 0")
    tail = frozen_ints("tail_ticks", tail_ticks, 1)
    flat = np.zeros((elapsed.size, 1), dtype=np.int64)
    return Objective(
        flat,
        flat,
        tail,
        np.zeros_like(tail) if call_weight is None else np.asarray(call_weight),
        due_tick=(np.floor(alpha * horizon) - elapsed).astype(np.int64),
        late_weight=np.broadcast_to(np.asarray(weight), elapsed.shape),
    )


def total_stretch(
    elapsed_ticks: npt.ArrayLike,
    horizon_ticks: npt.ArrayLike,
    tail_ticks: npt.ArrayLike,
    *,
    scale: int = 10**9,
    call_weight: npt.ArrayLike | None = None,
) -> Objective:
    """Sum over workflows of scale * R, with the slope rounded to an integer >= 1 per workflow."""
    return _stretch(elapsed_ticks, horizon_ticks, tail_ticks, scale, call_weight, "sum")


def max_stretch(
    elapsed_ticks: npt.ArrayLike,
    horizon_ticks: npt.ArrayLike,
    tail_ticks: npt.ArrayLike,
    *,
    scale: int = 10**9,
    call_weight: npt.ArrayLike | None = None,
) -> Objective:
    """The largest scale * R over the workflows (HexAGenT's urgency, as an objective)."""
    return _stretch(elapsed_ticks, horizon_ticks, tail_ticks, scale, call_weight, "max")


def _stretch(
    elapsed_ticks: npt.ArrayLike,
    horizon_ticks: npt.ArrayLike,
    tail_ticks: npt.ArrayLike,
    scale: int,
    call_weight: npt.ArrayLike | None,
    aggregate: Aggregate,
) -> Objective:
    elapsed, horizon = _ages(elapsed_ticks, horizon_ticks)
    slope = _stretch_slope(horizon, scale)
    return _objective(slope[:, None], (slope * elapsed)[:, None], tail_ticks, call_weight, aggregate)


def _stretch_slope(horizon: npt.NDArray[np.float64], scale: int) -> npt.NDArray[np.float64]:
    if scale < 1:
        raise ValueError(f"scale = {scale}: expected >= 1")
    return np.maximum(1.0, np.rint(scale / horizon))


def _ages(
    elapsed_ticks: npt.ArrayLike, horizon_ticks: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    elapsed = frozen_ints("elapsed_ticks", elapsed_ticks, 1)
    horizon = frozen_ints("horizon_ticks", horizon_ticks, 1)
    if elapsed.shape != horizon.shape:
        raise ValueError(f"horizon_ticks has {horizon.size} entries: expected {elapsed.size}, one per workflow")
    check_range("elapsed_ticks", elapsed, 0, 2**31 - 1)
    check_range("horizon_ticks", horizon, 1, 2**31 - 1)
    return elapsed.astype(np.float64), horizon.astype(np.float64)


def _objective(
    slope: npt.NDArray[np.float64],
    intercept: npt.NDArray[np.float64],
    tail_ticks: npt.ArrayLike,
    call_weight: npt.ArrayLike | None,
    aggregate: Aggregate,
) -> Objective:
    tail = frozen_ints("tail_ticks", tail_ticks, 1)
    weight = np.zeros_like(tail) if call_weight is None else np.asarray(call_weight)
    return Objective(slope.astype(np.int64), intercept.astype(np.int64), tail, weight, aggregate)


def frozen_ints(field: str, values: npt.ArrayLike, ndim: int) -> Ints:
    """A read-only int64 copy of `values`, or a ValueError that names the field."""
    array = np.asarray(values)
    if array.ndim != ndim:
        raise ValueError(f"{field} has {array.ndim} dimensions: expected {ndim}")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{field} has dtype {array.dtype}: expected integers")
    copy = array.astype(np.int64)
    copy.flags.writeable = False
    return copy


def check_range(field: str, values: Ints, low: int, high: int) -> None:
    """Raise a ValueError with the first entry of `values` outside low..high."""
    outside = (values < low) | (values > high)
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        place = ", ".join(map(str, index))
        raise ValueError(f"{field}[{place}] = {values[index]}: expected {low}..{high}")
