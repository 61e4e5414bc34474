"""The variables of the offline CP-SAT model and the way back from them. Knows symbols; knows no constraint."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, isfinite, lcm
from typing import Protocol

import numpy as np
from ortools.sat.python import cp_model

from hexsolve_models.offline.goal import Goal
from hexsolve_models.offline.listing import completed
from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem
from hexsolve_models.offline.referee import call_finishes, finish_ticks, stretches
from hexsolve_models.offline.windows import Windows, least_above

MOST_SCALE = 10**9


class Solution(Protocol):
    """A solver or a callback that can be asked for values."""

    def value(self, expression: cp_model.LinearExprT) -> int: ...

    def boolean_value(self, literal: cp_model.IntVar) -> bool: ...


@dataclass(frozen=True)
class CpsatModel:
    """The native model and the way back.

    Attributes
    ----------
    goal, deadline : as given; F_w <= deadline[w] for every workflow kept.
    scale : S of the objective.
    weights : [W] of ``mean_stretch``, S / reference_w rounded down.
    waiting : calls whose decode start is a variable of its own.
    """

    problem: OfflineProblem
    goal: Goal
    deadline: list[int]
    windows: Windows
    scale: int
    weights: list[int]
    model: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    keep: dict[int, cp_model.IntVar] = field(default_factory=dict)
    x: dict[int, dict[int, cp_model.IntVar]] = field(default_factory=dict)
    y: dict[int, dict[int, cp_model.IntVar]] = field(default_factory=dict)
    s: dict[int, cp_model.IntVar] = field(default_factory=dict)
    e: dict[int, cp_model.IntVar] = field(default_factory=dict)
    t: dict[int, cp_model.LinearExprT] = field(default_factory=dict)
    f: dict[int, cp_model.LinearExprT] = field(default_factory=dict)
    F: dict[int, cp_model.IntVar] = field(default_factory=dict)
    z: list[cp_model.IntVar] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)

    @property
    def calls(self) -> list[int]:
        """Calls of the workflows that may be kept."""
        return sorted(self.x)

    def bound(self, native: float) -> Fraction:
        """The goal's bound that a bound of the native objective means."""
        if not isfinite(native):
            return Fraction(0)
        least = ceil(native - 1e-6)
        if self.goal.kind == "late_count":
            return Fraction(max(0, least))
        if self.goal.kind == "mean_stretch":
            return Fraction(max(0, least), self.scale * max(1, self.problem.num_workflows))
        return max(Fraction(0), least_above(self.problem, Fraction(least - 1, self.scale)))

    def decision(self, solver: Solution) -> OfflineDecision:
        """The solution's; workflows that are not kept come last."""
        placed = {
            c: (
                next(p for p, x in self.x[c].items() if solver.boolean_value(x)),
                next(d for d, y in self.y[c].items() if solver.boolean_value(y)),
                int(solver.value(self.s[c])),
                int(solver.value(self.t[c])),
            )
            for c in self.calls
            if solver.boolean_value(self.keep[int(self.problem.workflow[c])])
        }
        return completed(self.problem, placed)

    def hint(self, decision: OfflineDecision) -> None:
        """Start from a decision that keeps the deadlines of all workflows that have to be kept."""
        problem, finish = self.problem, finish_ticks(self.problem, decision)
        finishes = call_finishes(problem, decision)
        kept = {w for w in self.keep if finish[w] <= self.deadline[w]}
        self._guess_objective(kept, finish)
        calls = [c for c in self.calls if int(problem.workflow[c]) in kept]
        prefill = _renamed(decision.prefill.tolist(), calls, twins_prefill(problem))
        decode = _renamed(decision.decode.tolist(), calls, twins_decode(problem))
        for c in calls:
            p, d = prefill[c], decode[c]
            for r, x in self.x[c].items():
                self.model.add_hint(x, r == p)
            for r, y in self.y[c].items():
                self.model.add_hint(y, r == d)
            start, begin = int(decision.prefill_start[c]), int(decision.decode_start[c])
            self.model.add_hint(self.s[c], start)
            arrival = begin - int(problem.transfer(c)[p, d])
            exact = start + int(problem.prefill_work[c, p])
            self.model.add_hint(self.e[c], exact if is_whole(problem, c) else arrival)
            if c in self.waiting:
                self.model.add_hint(self.t[c], begin)
                self.model.add_hint(self.f[c], finishes[c])

    def _guess_objective(self, kept: set[int], finish: Sequence[int]) -> None:
        for w, keep in self.keep.items():
            self.model.add_hint(keep, w in kept)
            if w in kept and w in self.F:
                self.model.add_hint(self.F[w], finish[w])
        if self.z:
            ratios = stretches(self.problem, finish)
            largest = max((ratios[w] for w in kept), default=Fraction(0))
            self.model.add_hint(self.z[0], -(-largest.numerator * self.scale // largest.denominator))


def scale_of(problem: OfflineProblem, goal: Goal) -> int:
    """S: for stretches at least every reference, so that one tick makes a difference; for means all of them divide it.

    Where they have no common multiple of a reasonable size, means are bounded a little lower than they could be.
    """
    references = sorted({int(reference) for reference in problem.reference_ticks})
    if goal.kind == "mean_stretch":
        common = lcm(*references)
        return common if common <= MOST_SCALE else MOST_SCALE
    return 1 if references == [1] else min(MOST_SCALE, max(references, default=1))


def is_whole(problem: OfflineProblem, c: int) -> bool:
    return bool((problem.prefill_work[c] == problem.prefill_ticks[c]).all())


def twins_prefill(problem: OfflineProblem) -> list[list[int]]:
    arrays = problem.prefill_ticks.T, problem.prefill_work.T, problem.transfer_base_ticks, problem.transfer_rate_ticks
    return _groups(np.hstack([np.atleast_2d(a) for a in arrays]))


def twins_decode(problem: OfflineProblem) -> list[list[int]]:
    arrays = problem.decode_ticks.T, problem.transfer_base_ticks.T, problem.transfer_rate_ticks.T
    return _groups(np.hstack([*arrays, problem.kv_capacity[:, None]]))


def _renamed(replica: list[int], calls: list[int], twins: list[list[int]]) -> list[int]:
    """The same choice with interchangeable replicas in the order in which `calls` use them."""
    name: dict[int, int] = {}
    for group in twins:
        seen = list(dict.fromkeys(replica[c] for c in calls if replica[c] in group))
        name |= dict(zip(seen + [r for r in group if r not in seen], group, strict=True))
    return [name.get(r, r) for r in replica]


def _groups(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[list[int]]:
    """Indices of equal rows, where there are several."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        same[row.tobytes()].append(i)
    return [group for group in same.values() if len(group) > 1]
