"""The epoch solver: HexAGenT's greedy plan first, then CP-SAT on the same snapshot, adopted only if strictly better.

Source: ours; the sequence heuristic → solver → strict comparison and the outcome classes follow the Kubernetes pod
packing of arXiv 2511.08373 (FIELD.md §3). Two judges must agree: the referee on the epoch problem, and the batch-aware
projection on the whole plan. Whatever goes wrong, the greedy plan is returned and the reason is counted.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from hexsolve.epoch import EpochIndex, EpochParams, projected, projected_key, to_problem
from hexsolve.errors import InputError
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policy import Plan, Policy
from hexsolve.snapshot import Snapshot
from hexsolve.watchdog import StillBusy, Watchdog
from hexsolve_models import Decision, Problem, cost, violations

logger = logging.getLogger(__name__)

SolveFunction = Callable[..., Any]
# (budget in ms, replica choices) with the largest mean gain after both judges, on 60 epochs of 32 waiting calls that
# were recorded on Hetero-1 (2026-11-21): 4 calls at 20 ms gained 1.0 % of Σ R^8, 6 at 50 ms 1.6 %, 6 and 8 at 200 ms
# 1.7 and 1.5 %; 16 calls gained 0.0, 0.1 and 1.0 %. From 1 s on by the gains of the solver alone, up to 32 calls.
_WINDOWS = ((10.0, 48), (20.0, 64), (50.0, 96), (200.0, 128), (1000.0, 256), (5000.0, 512))
_RESERVE_MS = 1.5  # kept back for decoding and comparing the result


@dataclass
class SolverPolicy:
    """Greedy plan improved by CP-SAT.

    Attributes
    ----------
    budget_ms : wall time for snapshot-to-plan, > 0; ignored when `deterministic` is set.
    deterministic : CP-SAT's deterministic time limit, > 0, for reproducible plans; None = wall clock.
    params : how a snapshot becomes a problem.
    workers : CP-SAT threads, >= 1; seed : its random seed.
    fallback : the plan to beat and to fall back to.
    solve : stands in for `hexsolve.solve.solve`; its answers are checked, whatever it is.
    grace_ms : how long past its share of the budget a solver is waited for before it is left behind, > 0; not with
        `deterministic`.
    outcomes : counts by DESIGN §4: better_optimal, better, greedy_optimal, greedy_kept, "not_called: why" and
        "failed: why".
    """

    budget_ms: float = 50.0
    deterministic: float | None = None
    params: EpochParams = field(default_factory=EpochParams)
    workers: int = 1
    seed: int = 0
    fallback: Policy = field(default_factory=HexAgent)
    solve: SolveFunction | None = None
    name: str = "solver"
    replans: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)
    grace_ms: float = 0.5
    _watchdog: Watchdog = field(default_factory=Watchdog, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.budget_ms > 0:
            raise InputError(f"budget_ms = {self.budget_ms!r}: expected a number > 0")
        if not self.grace_ms > 0:
            raise InputError(f"grace_ms = {self.grace_ms!r}: expected a number > 0")
        if self.deterministic is not None and not self.deterministic > 0:
            raise InputError(f"deterministic = {self.deterministic!r}: expected a number > 0 or None")
        if self.workers < 1:
            raise InputError(f"workers = {self.workers!r}: expected an integer >= 1")

    def plan(self, snapshot: Snapshot) -> Plan:
        """The better of the greedy and the solver's plan; `receipt` says which and why."""
        started = time.perf_counter()
        greedy = projected(snapshot, self.fallback.plan(snapshot))
        try:
            plan, receipt = self._improve(snapshot, greedy, started)
        except (TimeoutError, StillBusy):
            plan, receipt = greedy, {"outcome": "failed: late"}
        except Exception as error:
            # The serving path never fails because a solver does: the greedy plan stands, the reason is counted.
            logger.exception("epoch solver failed")
            plan, receipt = greedy, {"outcome": f"failed: {type(error).__name__}"}
        self.outcomes[receipt["outcome"]] += 1
        receipt["wall_ms"] = 1e3 * (time.perf_counter() - started)
        return replace(plan, receipt=receipt)

    def warm_up(self) -> None:
        """Load the solver, so that the first budget is not spent on it."""
        if self.solve is None:
            _warm_up()

    def _improve(self, snapshot: Snapshot, greedy: Plan, started: float) -> tuple[Plan, dict[str, Any]]:
        if len(greedy) < 2:
            return greedy, {"outcome": "not_called: fewer than two calls wait"}
        window = self._window(snapshot)
        if window < 2:
            return greedy, {"outcome": "not_called: too little budget"}
        translated = to_problem(snapshot, greedy, replace(self.params, max_calls=window))
        if translated is None:
            return greedy, {"outcome": "not_called: no replica can take a call"}
        problem, index = translated
        hint = index.greedy_decision(problem)
        greedy_cost = cost(problem, hint)
        result = self._solve(problem, hint, started)
        receipt = {
            "status": result.status.name,
            "greedy_cost": greedy_cost,
            "bound": result.bound,
            "calls": problem.num_calls,
            "stop_reason": str(result.stop_reason),
        }
        return self._judge(snapshot, greedy, index, problem, greedy_cost, result, receipt)

    def _window(self, snapshot: Snapshot) -> int:
        """Calls to give to the solver: the caller's choice, or what improves on its start within the budget."""
        if self.params.max_calls is not None:
            return self.params.max_calls
        replicas = len(snapshot.prefills) + len(snapshot.decodes)
        return _literals_worth(self.budget_ms) // replicas

    def _solve(self, problem: Problem, hint: Decision, started: float) -> Any:
        solve = self.solve or _load_solve()
        left_ms = max(0.0, self.budget_ms - 1e3 * (time.perf_counter() - started) - _RESERVE_MS)
        ask = partial(
            solve,
            problem,
            budget_ms=None if self.deterministic else left_ms,
            deterministic=self.deterministic,
            seed=self.seed,
            workers=self.workers,
            hint=hint,
            gates=None,  # the window has been cut to the budget already
        )
        return ask() if self.deterministic else self._watchdog.run(ask, (left_ms + self.grace_ms) / 1e3)

    def _judge(
        self,
        snapshot: Snapshot,
        greedy: Plan,
        index: EpochIndex,
        problem: Problem,
        greedy_cost: int,
        result: Any,
        receipt: dict[str, Any],
    ) -> tuple[Plan, dict[str, Any]]:
        unusable = _unusable(problem, result)
        if unusable:
            return greedy, receipt | {"outcome": unusable}
        optimal, price = result.status.name == "OPTIMAL", cost(problem, result.decision)
        receipt["objective"] = price
        if price >= greedy_cost:
            proved = optimal and price == greedy_cost
            return greedy, receipt | {"outcome": "greedy_optimal" if proved else "greedy_kept"}
        plan = index.to_plan(problem, result.decision, self.name)
        before, after = (projected_key(snapshot, p, self.params.exponent) for p in (greedy, plan))
        receipt |= {"projected_greedy": before[1], "projected": after[1]}
        if not after < before:
            return greedy, receipt | {"outcome": "greedy_kept"}
        return plan, receipt | {"outcome": "better_optimal" if optimal else "better"}


def _unusable(problem: Problem, result: Any) -> str:
    """Why a result has no decision that could be compared, as an outcome; empty if it has one."""
    kind = getattr(getattr(result.stop_reason, "kind", None), "name", "")
    if kind == "NOT_CALLED":
        return "not_called: too little budget"
    if kind == "REJECTED":
        return "failed: answer rejected by the referee"
    if result.status.name not in ("OPTIMAL", "FEASIBLE"):
        return f"failed: {result.status.name.lower()}"
    if violations(problem, result.decision):
        return "failed: decision breaks a rule"
    return ""


def _load_solve() -> SolveFunction:
    from hexsolve.solve import solve  # ortools loads only where a solver is really used

    return solve


def _literals_worth(budget_ms: float) -> int:
    """Replica choices (one per call and replica) to give to the solver within `budget_ms`."""
    return max((literals for from_ms, literals in _WINDOWS if from_ms <= budget_ms), default=0)


@cache
def _warm_up() -> None:
    from hexsolve.solve import warm_up

    warm_up()
