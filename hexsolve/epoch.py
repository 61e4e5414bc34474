"""The only translator between a snapshot and an epoch problem: seconds and ids become ticks and indices here, once.

Times are rounded up, so that the problem is never optimistic. Decode durations are straight lines through the greedy
plan in the number of the problem's calls on a replica (`crowding`). Knows snapshots and problems; knows no solver and
no clock.
"""

from dataclasses import dataclass
from math import inf

import numpy as np

from hexsolve.cluster import BLOCK_TOKENS
from hexsolve.crowding import decode_lines
from hexsolve.errors import InputError
from hexsolve.listplan import held_spans, plan_in_order
from hexsolve.policy import Plan
from hexsolve.settle import settled_finish_ms
from hexsolve.snapshot import Snapshot, prefill_times
from hexsolve.stretch_cost import URGENCY, StretchCost, ratios
from hexsolve.tables import WAIT_DECODE, WAIT_PREFILL, Floats, Ints
from hexsolve_models import Decision, Objective, Problem, timetable

_ROUNDING_SLACK = 1e-6  # keeps 3.0000000001 ms from becoming 4 ticks


@dataclass(frozen=True)
class EpochParams:
    """How a snapshot becomes a problem.

    Attributes
    ----------
    tick_ms : length of a tick, >= 0.001.
    max_calls : calls in the problem, >= 1, the most urgent of the greedy plan; the rest keep their greedy placement.
        None: all of them here, as many as its budget is good for in the solver policy.
    exponent, urgency : k >= 1 and u >= 0 of the objective Σ_w v_w·R_w^k, v_w ~ (ratio if it waited no more)^u
        (`stretch_cost`).
    target : deadline mode: the SLO scale α > 0 that as many workflows as possible are to meet, whatever becomes of the
        others, and without urgency; None: the tail of all of them counts.
    margin : share >= 0 of the projected cost by which a plan that lands late has to be cheaper (`projects_better`).
        What a search finds looks better than it is, the more so the less there was to find.
    """

    tick_ms: float = 1.0
    max_calls: int | None = None
    exponent: int = 1
    urgency: float = URGENCY
    target: float | None = None
    margin: float = 0.01

    def __post_init__(self) -> None:
        least = (("tick_ms", 1e-3), ("max_calls", 1), ("exponent", 1), ("urgency", 0), ("margin", 0))
        for name, low in least:
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise InputError(f"{name} = {value!r}: expected a number >= {low}")
        if self.target is not None and not 0 < self.target < inf:
            raise InputError(f"target = {self.target!r}: expected a finite number > 0 or None")

    def curve(self, snapshot: Snapshot, plan: Plan) -> StretchCost:
        """What plans are compared by where `plan` is the one to beat."""
        return StretchCost.around(snapshot, plan, self.exponent, self.urgency, self.target)


@dataclass(frozen=True, eq=False)
class EpochIndex:
    """What a problem's indices mean: call i of the problem is `snapshot.waiting[positions[i]]`."""

    snapshot: Snapshot
    greedy: Plan
    positions: Ints

    def decision_of(self, problem: Problem, plan: Plan) -> Decision:
        """A plan of the same waiting calls under the problem's own durations: to be beaten, or a start."""
        order = np.argsort(plan.rank[self.positions], kind="stable")
        return timetable(problem, order, plan.prefill[self.positions], plan.decode[self.positions], compiled=True)

    def to_plan(self, problem: Problem, decision: Decision, provenance: str) -> Plan:
        """The decision as a plan of every waiting call: the problem's calls first, then the rest in greedy order.

        Finish times come from the projection, so that every plan is told in the same physics as the greedy one.
        """
        inside = self.positions[decision.priority_order(problem)]
        by_greedy = np.argsort(self.greedy.rank, kind="stable")
        order = np.concatenate([inside, by_greedy[~np.isin(by_greedy, inside)]])
        prefill, decode = self.greedy.prefill.copy(), self.greedy.decode.copy()
        prefill[self.positions], decode[self.positions] = decision.prefill, decision.decode
        return plan_in_order(self.snapshot, order, prefill=prefill, decode=decode, provenance=provenance)


def to_problem(snapshot: Snapshot, greedy: Plan, params: EpochParams) -> tuple[Problem, EpochIndex] | None:
    """The most urgent waiting calls as a problem, or None when nothing can be placed.

    Calls that no replica can take now are left out; running and in-flight calls become held KV intervals.
    """
    placeable = np.flatnonzero(np.isfinite(greedy.finish_ms))
    positions = placeable[np.argsort(greedy.rank[placeable], kind="stable")][: params.max_calls]
    if not len(positions):
        return None
    rows = snapshot.waiting[positions]
    calls, tick, now_ms = snapshot.calls[rows], params.tick_ms, snapshot.now_ms
    spans = held_spans(snapshot)
    held = np.flatnonzero(np.isfinite(spans[:, 1]))
    workflows, workflow = np.unique(calls["workflow"], return_inverse=True)
    decode_ms, crowding_ms = decode_lines(snapshot, greedy, positions, spans)
    problem = Problem(
        prefill_ticks=_ticks(prefill_times(snapshot, rows), tick),
        locked_decode=np.where(calls["stage"] == WAIT_DECODE, calls["decode"], -1),
        release_tick=np.zeros(len(rows), dtype=np.int64),
        transfer_base_ticks=_ticks(snapshot.tables.pair[0], tick),
        transfer_rate_ticks=_ticks(snapshot.tables.pair[1] * BLOCK_TOKENS * 1024, tick),
        transfer_blocks=-(-calls["input_tokens"] // BLOCK_TOKENS),
        decode_ticks=_ticks(decode_ms, tick),
        crowding_ticks=np.rint(crowding_ms / tick).astype(np.int64),
        uncrowded_calls=np.zeros(len(snapshot.decodes), dtype=np.int64),
        kv_blocks=calls["kv_blocks"],
        kv_capacity=snapshot.decodes["capacity_blocks"],
        prefill_free_tick=_ticks(np.maximum(0.0, snapshot.prefills["free_ms"] - now_ms), tick),
        held_decode=snapshot.calls["decode"][held],
        held_start=_ticks(spans[held, 0] - now_ms, tick),
        held_end=_ticks(spans[held, 1] - now_ms, tick),
        held_blocks=snapshot.calls["kv_blocks"][held],
        workflow=workflow,
        objective=_objective(snapshot, greedy, positions, workflow, len(workflows), params),
    )
    return problem, EpochIndex(snapshot, greedy, positions)


def _ticks(ms: Floats, tick_ms: float) -> Ints:
    """Whole ticks, rounded up; what is not finite becomes -1, "not allowed"."""
    finite = np.isfinite(ms)
    return np.where(finite, np.ceil(np.where(finite, ms, 0.0) / tick_ms - _ROUNDING_SLACK), -1.0).astype(np.int64)


def _objective(
    snapshot: Snapshot, greedy: Plan, positions: Ints, workflow: Ints, num_workflows: int, params: EpochParams
) -> Objective:
    """The cost of projected ratios (`stretch_cost`); ties by call finish."""
    rows = snapshot.waiting[positions]
    tail_ms, whole_ms = snapshot.outlook
    elapsed, horizon = np.zeros(num_workflows), np.ones(num_workflows)
    elapsed[workflow] = np.maximum(0.0, snapshot.now_ms - snapshot.calls["arrival_ms"][rows])
    horizon[workflow] = whole_ms[rows]
    curve = params.curve(snapshot, greedy)
    return curve.objective(
        _ticks(elapsed, params.tick_ms),
        np.maximum(1, _ticks(horizon, params.tick_ms)),
        _ticks(tail_ms[rows], params.tick_ms),
        np.ones(len(positions), dtype=np.int64),
        curve.worth(snapshot, rows, workflow, num_workflows),
    )


def projected_cost(snapshot: Snapshot, plan: Plan, curve: StretchCost) -> float:
    """What a plan costs in the projection; calls without placement are left out, so compare by `projected_key`.

    The same objective as the problem's, on the whole queue, with every decode in the batches that the plan makes
    (`settled_finish_ms`).
    """
    finish_ms = settled_finish_ms(snapshot, plan)
    placed = np.isfinite(finish_ms)
    rows = plan.rows[placed]
    workflows, workflow = np.unique(snapshot.calls["workflow"][rows], return_inverse=True)
    worst = np.zeros(len(workflows))
    np.maximum.at(worst, workflow, ratios(snapshot, rows, finish_ms[placed]))
    return curve.total(worst, curve.worth(snapshot, rows, workflow, len(workflows)))


def projected_key(snapshot: Snapshot, plan: Plan, curve: StretchCost) -> tuple[int, float]:
    """What plans are compared by, smaller is better: calls left without placement, then `projected_cost`."""
    return int(np.sum(~np.isfinite(plan.finish_ms))), projected_cost(snapshot, plan, curve)


def projects_better(snapshot: Snapshot, plan: Plan, than: Plan, params: EpochParams) -> bool:
    """Whether a plan places more calls, or as many at a `projected_cost` that is lower by more than the margin."""
    curve = params.curve(snapshot, than)
    left, price = projected_key(snapshot, plan, curve)
    left_before, price_before = projected_key(snapshot, than, curve)
    return left < left_before or (left == left_before and price < (1.0 - params.margin) * price_before)


def projected(snapshot: Snapshot, plan: Plan) -> Plan:
    """The same placements and ranks with projected times, for a plan of a policy that projects nothing."""
    if np.isfinite(plan.finish_ms[plan.decode >= 0]).all():
        return plan
    order = np.argsort(plan.rank, kind="stable")
    return plan_in_order(
        snapshot, order, prefill=plan.prefill, decode=plan.decode, rank=plan.rank, provenance=plan.provenance
    )


def carry_over(snapshot: Snapshot, greedy: Plan, earlier: Plan) -> Plan | None:
    """An earlier plan brought up to date: its calls that still wait keep order and placement, new calls are inserted.

    A new call goes right before the first carried call that the fresh greedy plan ranks behind it, and takes the pair
    with its earliest projected finish. None if none of the earlier plan's calls still waits.
    """
    serials = snapshot.calls["serial"][greedy.rows]
    by_serial = {int(serial): i for i, serial in enumerate(earlier.serials)}
    earlier_at = np.array([by_serial.get(int(serial), -1) for serial in serials], dtype=np.int64)
    carried = np.flatnonzero(earlier_at >= 0)
    if not len(carried):
        return None
    queue: list[int] = carried[np.argsort(earlier.rank[earlier_at[carried]], kind="stable")].tolist()
    fresh = np.flatnonzero(earlier_at < 0)
    rank: list[int] = greedy.rank.tolist()
    for position in fresh[np.argsort(greedy.rank[fresh], kind="stable")].tolist():
        behind = (i for i, other in enumerate(queue) if rank[other] > rank[position])
        queue.insert(next(behind, len(queue)), position)
    free = snapshot.calls["stage"][greedy.rows] == WAIT_PREFILL
    kept = (earlier_at >= 0) & free
    prefill = np.where(kept, earlier.prefill[earlier_at], -1)
    decode = np.where(kept, earlier.decode[earlier_at], -1)
    usable = kept & (prefill >= 0)
    usable[usable] = snapshot.prefills["up"][prefill[usable]] == 1
    prefill[~usable], decode[~usable] = -1, -1
    order = np.array(queue, dtype=np.int64)
    return plan_in_order(snapshot, order, prefill=prefill, decode=decode, provenance=earlier.provenance)
