"""Lexicographic objectives: each stage is solved under what the earlier ones have reached. Knows `solve`; no snapshots.

Each finished stage becomes a cap of the next ones: at its optimum if that was proved, else at the best cost found, so a
later stage never gives back what an earlier one has. Time that a stage leaves over goes to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from hexsolve.errors import InputError
from hexsolve.solve import Result, Status, solve
from hexsolve.workers import WorkerPool
from hexsolve_models import Decision, Objective, Problem


@dataclass(frozen=True, slots=True)
class Stage:
    """One objective, most important first.

    Attributes
    ----------
    name : for reports.
    objective : of the same workflows and calls as the problem.
    share : of the time left that it may use, 0..1; the last stage gets all.
    """

    name: str
    objective: Objective
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class StagedResult:
    """`results[i]` belongs to `stages[i]`; stages that were not reached are missing."""

    stages: tuple[Stage, ...]
    results: tuple[Result, ...]

    @property
    def is_proved(self) -> bool:
        """Every stage is proved optimal: the decision is lexicographically optimal."""
        done = len(self.results) == len(self.stages)
        return done and all(result.status is Status.OPTIMAL for result in self.results)

    @property
    def decision(self) -> Decision:
        """The last stage's decision. Raises `LookupError` if there is none."""
        return self.results[-1].decision


def solve_stages(
    problem: Problem,
    stages: Sequence[Stage],
    *,
    budget_ms: float | None = None,
    deterministic: float | None = None,
    seed: int = 0,
    workers: int = 1,
    hint: Sequence[Decision] = (),
    pool: WorkerPool | None = None,
) -> StagedResult:
    """Minimise `stages` one after the other; `problem.objective` itself does not count. Limits as in `solve`.

    Raises
    ------
    InputError
        If there is no stage, or a limit is wrong.
    """
    if not stages:
        raise InputError("stages is empty: expected at least one")
    started = perf_counter()
    current, hints, results = problem, list(hint), []
    for i, stage in enumerate(stages):
        left_ms = None
        if budget_ms is not None:
            left_ms = max(0.0, budget_ms - (perf_counter() - started) * 1e3)
            left_ms *= stage.share if i + 1 < len(stages) else 1.0
        current = replace(current, objective=stage.objective)
        result = solve(
            current,
            budget_ms=left_ms,
            deterministic=deterministic,
            seed=seed,
            workers=workers,
            hint=hints,
            pool=pool,
        )
        results.append(result)
        if not result.has_decision:
            break
        hints = [result.decision]
        current = replace(current, caps=(*current.caps, (stage.objective, int(result.objective))))
    return StagedResult(tuple(stages), tuple(results))
