"""The best lower bound that a given effort buys, from the cheapest relaxation to the dearest. Knows the relaxations and
their order; knows no clock. Proofs and figures: models/README.md §11.

    bound = best_bound(problem, hint)     # bound.bound <= cost of every decision

`bounds.lower_bound`; queues of machines (`ascent`), with rents for decode places where calls slow one another down
(`rents`); for few calls everything that is left (`exact`).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import gcd, inf

from hexsolve_models.alone import cost_at
from hexsolve_models.bounds import lower_bound
from hexsolve_models.decision import Decision
from hexsolve_models.objective import Objective
from hexsolve_models.problem import Problem
from hexsolve_models.relaxations.ascent import Multipliers, ascend, first_multipliers, moved
from hexsolve_models.relaxations.exact import search_all
from hexsolve_models.relaxations.pool import Pool, pool_of
from hexsolve_models.relaxations.prices import OutOfRangeError
from hexsolve_models.relaxations.rents import Rents, fit_rents
from hexsolve_models.timetable import earliest_finish

# On a quiet core, so that nothing begins that there is no time to end.
_CELLS_PER_S, _FEWEST_STEPS = 4e8, 20
_QUEUES_PER_S, _WORK_PER_S = 4e6, 2.2e8


@dataclass(frozen=True, eq=False)
class BestBound:
    """A certified lower bound.

    Attributes
    ----------
    bound : no decision costs less; `bounds.NEVER` if a call cannot be placed.
    which : "pools", "queues", "rents" or "all queues": the relaxation it comes from.
    decision : the cheapest decision known at the end, caps kept; None if there is none.
    cost : what it costs; the bound, if that is an optimum.
    work : prices computed and steps of the search.
    """

    bound: int
    which: str
    decision: Decision | None = None
    cost: int | None = None
    work: int = 0


@dataclass(frozen=True)
class _Stage:
    """Steps of fitting rents; prices (at most) and steps of an ascent; queues and steps of a search, at most."""

    rents: int
    ascent: tuple[int, int]
    search: tuple[int, int]


_FIRST = (30_000, 30)
_STAGES = (
    _Stage(100, (100_000, 20), (20_000, 4_000_000)),
    _Stage(150, (1_000_000, 40), (100_000, 20_000_000)),
    _Stage(400, (10_000_000, 300), (1_000_000, 300_000_000)),
)
_FINE = (3_000_000, 3)  # a search needs steps of a tick
_MOST_CALLS = 24  # beyond, a search has never come to an end
EFFORTS = range(len(_STAGES) + 1)


def best_bound(
    problem: Problem,
    hint: Decision | None = None,
    *,
    effort: int = 2,
    seconds_left: Callable[[], float] | None = None,
) -> BestBound:
    """The best bound that `effort` buys. Deterministic, unless `seconds_left` ends it early.

    Parameters
    ----------
    hint
        An allowed decision, the better the tighter the bound; caps apart. None: a list schedule.
    effort
        0: `lower_bound` only, and all there is for the largest of the workflows' costs. 1, 2, 3: about 10, 50 and 500
        ms for 32 calls on 8 x 8 replicas.
    seconds_left
        Asked between steps of a few milliseconds; at 0 the best bound so far is returned. None: no such limit.

    Raises
    ------
    ValueError
        If the effort is not one of `EFFORTS`.
    """
    if effort not in EFFORTS:
        raise ValueError(f"effort = {effort!r}: expected one of {', '.join(map(str, EFFORTS))}")
    if problem.num_calls == 0 or problem.blocked_calls():
        return BestBound(lower_bound(problem), "pools")
    incumbent = earliest_finish(problem, problem.topological, compiled=True) if hint is None else hint
    climb = _Climb(problem, incumbent, seconds_left or (lambda: inf))
    if effort > 0 and problem.objective.aggregate == "sum":
        with suppress(OutOfRangeError):  # what is known by then is right
            climb.run(_STAGES[:effort])
    return climb.result()


class _Climb:
    """The best bound and the best decision so far."""

    def __init__(self, problem: Problem, incumbent: Decision, seconds_left: Callable[[], float]) -> None:
        self.problem, self.incumbent, self.seconds_left = problem, incumbent, seconds_left
        self.bound, self.which, self.work = lower_bound(problem), "pools", 0
        self.decision: Decision | None = None
        self.cost: int | None = None
        self.offer(incumbent)

    def run(self, stages: tuple[_Stage, ...]) -> None:
        """Queues, rents and all queues, until the bound meets the decision."""
        cells, steps = _FIRST
        pool = pool_of(self.problem, self.incumbent, cells)
        if pool is None or self.is_over():
            return
        rents: Rents | None = None
        multipliers = self.ascend(pool, first_multipliers(pool), steps, rents)
        for stage in stages:
            if self.is_over():
                return
            before, rents = rents, fit_rents(pool, multipliers.share, stage.rents)
            multipliers = moved(multipliers, pool, before, rents)
            pool, multipliers = self.ascend_in(pool, stage.ascent, multipliers, rents)
            if pool.calls.size <= _MOST_CALLS and not self.is_over():
                if pool.step > 1:
                    pool, multipliers = self.ascend_in(pool, _FINE, multipliers, rents)
                self.search(pool, multipliers, rents, *stage.search)

    def ascend_in(
        self, pool: Pool, ascent: tuple[int, int], start: Multipliers, rents: Rents | None
    ) -> tuple[Pool, Multipliers]:
        """Ascend in a pool with other steps, as fine as time allows, unless it is over."""
        most_cells = int(min(ascent[0], self.seconds_left() * _CELLS_PER_S / _FEWEST_STEPS))
        finer = None if self.is_over() else pool_of(self.problem, self.incumbent, most_cells)
        return (pool, start) if finer is None else (finer, self.ascend(finer, start, ascent[1], rents))

    def ascend(self, pool: Pool, start: Multipliers, steps: int, rents: Rents | None) -> Multipliers:
        raised = ascend(pool, start, steps, rents=rents, is_over=lambda: self.seconds_left() <= 0.0)
        self.work += raised.steps * pool.ticks.size * (pool.last_step + 1)
        # A price as a bound: no more than the incumbent, which may be an optimum.
        bound = _on_grid(pool.problem.objective, pool.cost(raised.value))
        self.raise_to(min(bound, pool.known), "queues" if rents is None else "rents")
        return raised.multipliers

    def search(self, pool: Pool, multipliers: Multipliers, rents: Rents | None, queues: int, work: int) -> None:
        left_s = self.seconds_left()
        if self.is_over() or pool.step > 1:
            return
        most_queues, most_work = min(queues, 0.3 * left_s * _QUEUES_PER_S), min(work, 0.6 * left_s * _WORK_PER_S)
        exact = search_all(pool, multipliers, rents, int(most_queues), int(most_work))
        if exact is not None:
            self.work += exact.work
            self.offer(exact.decision)
            self.raise_to(min(exact.bound, pool.known), "all queues")

    def offer(self, decision: Decision | None) -> None:
        """Keep a decision if it is the cheapest that meets the caps."""
        if decision is None:
            return
        finish = decision.decode_finish(self.problem)
        price = cost_at(self.problem, finish)
        meets_caps = all(cost_at(self.problem, finish, cap) <= limit for cap, limit in self.problem.caps)
        if meets_caps and (self.cost is None or price < self.cost):
            self.decision, self.cost = decision, price

    def raise_to(self, bound: int, which: str) -> None:
        """Keep the larger bound."""
        if bound > self.bound:
            self.bound, self.which = bound, which

    def is_over(self) -> bool:
        """Nothing is left to prove, or no time."""
        return (self.cost is not None and self.bound >= self.cost) or self.seconds_left() <= 0.0

    def result(self) -> BestBound:
        return BestBound(self.bound, self.which, self.decision, self.cost, self.work)


def _on_grid(objective: Objective, bound: int) -> int:
    """The smallest possible cost from `bound` on, where only lateness costs."""
    if objective.slope.any() or objective.call_weight.any():
        return bound
    least, grid = int(objective.intercept.max(axis=1).sum()), gcd(*objective.late_weight.tolist())
    return bound if grid == 0 else least - (least - bound) // grid * grid
