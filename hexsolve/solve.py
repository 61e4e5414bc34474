"""Problem in, best decision within a budget out. Knows components, budgets and outcomes; no clusters, no snapshots.

Every decision that leaves here has passed the referee. Components run one after the other, each from the best decision
so far; native solvers run in a worker process if there is a pool, beside the local search, and are left behind when
they are late. Whatever they answer, a feasible hint is never lost and no bound is above a known decision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf, isnan
from time import perf_counter

import numpy as np

from hexsolve import components
from hexsolve.backends.outcome import Limits, ModelError
from hexsolve.components import LOCAL_SEARCH
from hexsolve.components.local_search import run as search_on
from hexsolve.errors import InputError
from hexsolve.portfolio import Step, steps_for
from hexsolve.proposal import Proposal
from hexsolve.workers import Job, NoWorker, WorkerDied, WorkerError, WorkerPool
from hexsolve_models import Decision, Problem, cost, earliest_finish, violations
from hexsolve_models.bounds import lower_bound

__all__ = ["ModelError", "Result", "Status", "StopKind", "StopReason", "Trace", "solve", "warm_up"]

HINT, LIST = "hint", "list"


class Status(Enum):
    """What is known (DESIGN: outcome table). Decisions exist for OPTIMAL and FEASIBLE only."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    NO_SOLUTION = "no solution"
    INFEASIBLE = "infeasible"


class StopKind(Enum):
    """Why `solve` stopped."""

    PROVED = "the best decision costs no more than the bound"
    CERTIFIED = "the first decision meets the bound, no component needed"
    LIMIT = "the time is used, or every component has had its turn"
    NOT_CALLED = "no component was called"
    BLOCKED = "some calls fit no replica"
    REJECTED = "an answer failed a check"


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why `solve` stopped, and the particulars."""

    kind: StopKind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}" if self.detail else self.kind.value


@dataclass(frozen=True, slots=True)
class Trace:
    """At `elapsed_ms` of the solve, `component` had found `cost` and, or, proved `bound`."""

    elapsed_ms: float
    component: str
    cost: float
    bound: float


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one `solve`.

    Attributes
    ----------
    objective : referee cost of the decision; inf without one.
    bound : no decision costs less; inf if there is none at all.
    wall_ms, build_ms : time of the whole call, and of building models.
    stop_reason : why it stopped; names rejected answers.
    winner : what found the decision: a component, "hint", "list" (the first list schedule) or "".
    trace : improvements of cost and bound in order.
    work : component -> its repeatable work, and what it said.
    """

    status: Status
    objective: float
    bound: float
    wall_ms: float
    build_ms: float
    stop_reason: StopReason
    winner: str
    trace: tuple[Trace, ...]
    work: tuple[tuple[str, float, str], ...]
    _decision: Decision | None = None

    @property
    def has_decision(self) -> bool:
        return self._decision is not None

    @property
    def decision(self) -> Decision:
        """The decision. Raises `LookupError` if there is none."""
        if self._decision is None:
            raise LookupError(f"no decision: {self.status.value} ({self.stop_reason.kind.value})")
        return self._decision


# Every native status, and whether its decision, its bound can be believed after checks. INFEASIBLE is never believed:
# `Problem.blocked_calls` decides feasibility exactly.
NATIVE_STATUS = {
    "OPTIMAL": Status.OPTIMAL,
    "FEASIBLE": Status.FEASIBLE,
    "UNKNOWN": Status.NO_SOLUTION,
    "INFEASIBLE": Status.INFEASIBLE,
    "": Status.NO_SOLUTION,  # not a native solver
    "MODEL_INVALID": None,  # raised as ModelError by the back-end
}

_END_MS = 0.3  # for returning the result
_BOUND_FIRST_MS = 12.0  # below this budget the search comes first, and the bound if there is time left
_BOUND_MS, _BOUND_CALL_MS = 0.5, 0.015  # what a bound takes: fixed, and per call
_PATIENCE_S = 1.0  # how long a late worker may take to come back before it is replaced
_WORKER_TRIP_MS = 1.0  # there and back


def solve(
    problem: Problem,
    *,
    budget_ms: float | None = None,
    deterministic: float | None = None,
    seed: int = 0,
    workers: int = 1,
    hint: Decision | Sequence[Decision] = (),
    steps: Sequence[Step | str] | None = None,
    pool: WorkerPool | None = None,
) -> Result:
    """Find the cheapest decision.

    Parameters
    ----------
    budget_ms
        Wall-clock budget of this call, everything included, >= 0. None: no wall limit.
    deterministic
        Work limit of every component in nominal seconds, >= 0: moves of the local search, deterministic time of CP-SAT.
        Same result on every run and machine. None: no such limit.
    seed, workers
        Seed >= 0 of everything random; threads >= 1 of each native solver.
    hint
        Decisions to start from; those that the referee finds violations in are dropped. The result is never dearer.
    steps
        Components to run in this order, by name or with their share of the time left; None: by size and budget (without
        one: by `deterministic`).
    pool
        Runs native solvers; without one they run in this thread, and cannot be left behind when they hang.

    Raises
    ------
    InputError
        If a limit, the seed, the number of workers or a component's name is wrong.
    ModelError
        If a solver finds a model invalid.
    """
    limits = _checked(Limits(budget_ms, deterministic, seed, workers))
    nominal_ms = deterministic * 1e3 if budget_ms is None and deterministic is not None else budget_ms
    plan = steps_for(problem.num_calls, nominal_ms) if steps is None else _as_steps(steps)
    run = _Run(problem, budget_ms)
    blocked = problem.blocked_calls()
    if blocked:
        return run.without(Status.INFEASIBLE, inf, StopReason(StopKind.BLOCKED, f"calls {list(blocked)}"))
    if problem.num_calls == 0:
        hint = Decision(*np.zeros((4, 0), dtype=np.int64))
    for decision in [hint] if isinstance(hint, Decision) else hint:
        run.offer(HINT, decision)
    if run.best is None:
        run.offer(LIST, earliest_finish(problem, problem.topological, compiled=True))
    is_tight = budget_ms is not None and budget_ms < _BOUND_FIRST_MS and problem.num_calls > 0
    if not is_tight:
        run.raise_bound("bounds", lower_bound(problem))
    if run.is_proved:
        return run.result(StopReason(StopKind.CERTIFIED))
    for step in plan:
        left_ms = run.left_ms()
        if left_ms is not None and left_ms <= 0.0:
            break
        if step.if_kv_is_ample and run.is_short_of_kv():
            continue
        own = Limits(None if left_ms is None else left_ms * step.share, deterministic, seed, workers)
        _take_turn(run, step, own, pool)
        if run.is_proved:
            return run.result(StopReason(StopKind.PROVED))
    if is_tight:
        _bound_last(run)
    if run.rejected:
        return run.result(StopReason(StopKind.REJECTED, "; ".join(run.rejected)))
    if not run.work:
        return run.result(StopReason(StopKind.NOT_CALLED, f"budget {limits.wall_ms} ms"))
    return run.result(StopReason(StopKind.LIMIT))


def warm_up(*, with_natives: bool = True) -> None:
    """Load and compile everything `solve` needs in this process, so that the first budget is not spent on it."""
    import scipy.optimize  # noqa: F401

    from hexsolve_models.warm import warm_up as warm_models

    warm_models()
    components.warm_up(native=None if with_natives else False)


class _Run:
    """Book-keeping of one `solve`: the best checked decision, the best bound, the clock."""

    def __init__(self, problem: Problem, budget_ms: float | None) -> None:
        self.problem, self.budget_ms, self.start_s = problem, budget_ms, perf_counter()
        self.best: Decision | None = None
        self.winner = ""
        self.price: float = inf
        self.bound: float = -inf
        self.check_ms = self.build_ms = 0.0
        self.trace: list[Trace] = []
        self.work: list[tuple[str, float, str]] = []
        self.rejected: list[str] = []

    @property
    def is_proved(self) -> bool:
        return self.price <= self.bound

    def is_short_of_kv(self) -> bool:
        """Whether a call waits for KV in the best decision."""
        best = self.best
        return best is not None and bool((best.decode_start > best.arrival(self.problem)).any())

    def elapsed_ms(self) -> float:
        return (perf_counter() - self.start_s) * 1000

    def left_ms(self) -> float | None:
        """Time that a component may use: what it answers has to be checked within the budget too."""
        if self.budget_ms is None:
            return None
        return self.budget_ms - self.elapsed_ms() - 1.5 * self.check_ms - _END_MS

    def offer(self, component: str, decision: Decision, claimed: float = float("nan"), status: str = "") -> str:
        """Keep a decision if it is allowed and the cheapest so far; returns what is wrong with it."""
        before_ms = self.elapsed_ms()
        broken = violations(self.problem, decision)
        if broken:
            return f"{len(broken)} violations, the first: {broken[0]}"
        price = cost(self.problem, decision)
        self.check_ms = max(self.check_ms, self.elapsed_ms() - before_ms)
        # A proved optimum has no slack in its cost variables; an incumbent may.
        if not isnan(claimed) and (price > claimed or (status == "OPTIMAL" and price < claimed)):
            return f"claims cost {claimed:.0f}, the referee finds {price}"
        if price < self.bound:  # the referee has passed the decision, so the bound was wrong
            self.rejected.append(f"a bound of {self.bound:.0f}, {component} found cost {price}")
            self.bound = -inf
        if price < self.price:
            self.best, self.price, self.winner = decision, price, component
            self.trace.append(Trace(self.elapsed_ms(), component, price, self.bound))
        return ""

    def raise_bound(self, component: str, bound: float) -> str:
        """Take a bound if no decision contradicts it; returns what does."""
        if bound > self.price:
            return f"claims bound {bound:.0f}, a decision costs {self.price:.0f}"
        if bound > self.bound:
            self.bound = bound
            self.trace.append(Trace(self.elapsed_ms(), component, self.price, bound))
        return ""

    def judge(self, component: str, proposal: Proposal, began_ms: float) -> None:
        """Believe only what the referee and the other components do not contradict."""
        self.build_ms += proposal.build_ms
        self.work.append((component, proposal.work, proposal.detail))
        wrong = ""
        if proposal.status not in NATIVE_STATUS:
            wrong = f"says {proposal.status!r}, which is no status"
        elif NATIVE_STATUS[proposal.status] is Status.INFEASIBLE:
            wrong = "says infeasible, but every call fits a replica"
        elif proposal.decision is not None:
            before = self.price
            wrong = self.offer(component, proposal.decision, proposal.claimed, proposal.status)
            if not wrong and self.price < before:  # what it found on its way, before its last
                steps = [(ms, price) for ms, price in proposal.history[:-1] if price < before]
                self.trace[-1:-1] = [Trace(began_ms + ms, component, price, self.bound) for ms, price in steps]
        wrong = wrong or self.raise_bound(component, proposal.bound)
        if wrong:
            self.rejected.append(f"{component} {wrong}")

    def result(self, reason: StopReason) -> Result:
        if self.best is None:
            return self.without(Status.NO_SOLUTION, self.bound, reason)
        return self._as_result(Status.OPTIMAL if self.is_proved else Status.FEASIBLE, self.price, self.bound, reason)

    def without(self, status: Status, bound: float, reason: StopReason) -> Result:
        return self._as_result(status, inf, bound, reason)

    def _as_result(self, status: Status, price: float, bound: float, reason: StopReason) -> Result:
        told = reason, self.winner, tuple(self.trace), tuple(self.work)
        return Result(status, price, bound, self.elapsed_ms(), self.build_ms, *told, self.best)


def _take_turn(run: _Run, step: Step, limits: Limits, pool: WorkerPool | None) -> None:
    began_ms, component = run.elapsed_ms(), step.component
    if pool is None or limits.deterministic is not None or not components.load(component).IS_NATIVE:
        if not step.beside:
            run.judge(component, components.run(component, run.problem, run.best, limits), began_ms)
        return
    own = (
        limits
        if limits.wall_ms is None
        else Limits(limits.wall_ms - _WORKER_TRIP_MS, None, limits.seed, limits.workers)
    )
    try:
        job = pool.submit("hexsolve.components:run", component, run.problem, run.best, own)
    except NoWorker as error:
        run.work.append((component, 0.0, str(error)))
        return
    try:
        # The local search uses the time; the worker has a core of its own.
        proposal = search_on(run.problem, run.best, limits, is_over=None if step.beside else job.poll)
        run.judge(LOCAL_SEARCH, proposal, began_ms)
        _collect(run, component, job, began_ms)
    finally:
        job.abandon(_PATIENCE_S)


def _collect(run: _Run, component: str, job: Job, began_ms: float) -> None:
    if not job.poll():
        run.work.append((component, 0.0, "late"))
        return
    try:
        run.judge(component, job.result(), began_ms)
    except WorkerDied as error:
        run.work.append((component, 0.0, str(error)))
    except WorkerError as error:
        if str(error).startswith(ModelError.__name__):
            raise ModelError(str(error)) from error
        run.work.append((component, 0.0, str(error)))


def _bound_last(run: _Run) -> None:
    """The bound if there is time for it, else the one that takes none: every workflow done at once."""
    problem = run.problem
    left_ms = run.left_ms()
    if left_ms is not None and left_ms > _BOUND_MS + _BOUND_CALL_MS * problem.num_calls:
        run.raise_bound("bounds", lower_bound(problem))
        return
    costs = [problem.objective.workflow_cost(w, 0) for w in range(problem.num_workflows)]
    run.raise_bound("trivial", max(costs) if problem.objective.aggregate == "max" else sum(costs))


def _as_steps(steps: Sequence[Step | str]) -> tuple[Step, ...]:
    """Names share the time left evenly."""
    plan = []
    for i, step in enumerate(steps):
        plan.append(Step(step, 1.0 / (len(steps) - i)) if isinstance(step, str) else step)
        components.load(plan[-1].component)
    return tuple(plan)


def _checked(limits: Limits) -> Limits:
    for name, value in (("budget_ms", limits.wall_ms), ("deterministic", limits.deterministic)):
        if value is not None and not value >= 0:
            raise InputError(f"{name} = {value!r}: expected >= 0, or None for no such limit")
    if limits.seed < 0 or limits.workers < 1:
        raise InputError(f"seed = {limits.seed}, workers = {limits.workers}: expected seed >= 0, workers >= 1")
    return limits
