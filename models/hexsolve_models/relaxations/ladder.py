"""The best lower bound that a given effort buys, from the cheapest relaxation to the dearest. Knows the relaxations and
their order; knows no clock. Proofs and figures: models/README.md §9.

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
from hexsolve_models.relaxations.ascent import Multipliers, ascend, first_multipliers, moved_to
from hexsolve_models.relaxations.exact import search_all
from hexsolve_models.relaxations.pool import Pool, pool_of
from hexsolve_models.relaxations.prices import OutOfRangeError
from hexsolve_models.relaxations.rents import Rents, fit_rents
from hexsolve_models.timetable import earliest_finish

_WORK_PER_S = 1.5e8  # steps of the search


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
class _Plan:
    """What an effort buys. Ascents are (cells, steps): prices to compute at most, and subgradient steps."""

    first: tuple[int, int]
    rents: int
    then: tuple[tuple[int, int], ...]
    search: tuple[int, int, int] = (0, 0, 0)  # calls, queues, work


_PLANS = (
    _Plan((0, 0), 0, ()),
    _Plan((30_000, 30), 60, ((30_000, 30),)),
    _Plan((100_000, 100), 150, ((100_000, 100), (1_000_000, 40)), (12, 100_000, 20_000_000)),
    _Plan((100_000, 150), 400, ((100_000, 150), (1_000_000, 150), (10_000_000, 300)), (20, 1_000_000, 300_000_000)),
)
EFFORTS = range(len(_PLANS))


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
            climb.run(_PLANS[effort])
    return climb.result()


class _Climb:
    """The best bound and the best decision so far."""

    def __init__(self, problem: Problem, incumbent: Decision, seconds_left: Callable[[], float]) -> None:
        self.problem, self.incumbent, self.seconds_left = problem, incumbent, seconds_left
        self.bound, self.which, self.work = lower_bound(problem), "pools", 0
        self.decision: Decision | None = None
        self.cost: int | None = None
        self.offer(incumbent)

    def run(self, plan: _Plan) -> None:
        """Queues, rents and all queues, until the bound meets the decision."""
        pool = pool_of(self.problem, self.incumbent, plan.first[0])
        if pool is None or self.is_over():
            return
        rents: Rents | None = None
        multipliers = self.ascend(pool, first_multipliers(pool), plan.first[1], rents)
        if not self.is_over():
            rents = fit_rents(pool, multipliers.share, plan.rents)
            if rents is not None:
                multipliers = moved_to(rents, pool, multipliers)
        for cells, steps in plan.then:
            if self.is_over():
                return
            pool = pool_of(self.problem, self.incumbent, cells)
            assert pool is not None  # nor was it the first time
            multipliers = self.ascend(pool, multipliers, steps, rents)
        self.search(pool, multipliers, rents, *plan.search)

    def ascend(self, pool: Pool, start: Multipliers, steps: int, rents: Rents | None) -> Multipliers:
        raised = ascend(pool, start, steps, rents=rents, is_over=lambda: self.seconds_left() <= 0.0)
        self.work += raised.steps * pool.ticks.size * (pool.last_step + 1)
        # A price as a bound: no more than the incumbent, which may be an optimum.
        bound = _on_grid(pool.problem.objective, pool.cost(raised.value))
        self.raise_to(min(bound, pool.known), "queues" if rents is None else "rents")
        return raised.multipliers

    def search(
        self, pool: Pool, multipliers: Multipliers, rents: Rents | None, calls: int, queues: int, work: int
    ) -> None:
        if pool.calls.size > calls or self.is_over():
            return
        most_work = int(min(float(work), self.seconds_left() * _WORK_PER_S))
        exact = search_all(pool, multipliers, rents, queues, most_work)
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
