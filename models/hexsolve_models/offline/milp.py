"""A whole instance as a MILP with an order of every pair, exact; for tiny ones. Knows `OfflineProblem` and goals.

The same mathematics as `cpsat`, in rows (models/README.md §9.5): what CP-SAT propagates is said with big numbers here,
so that two solvers that share nothing can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import permutations
from math import ceil, lcm
from typing import Any

import numpy as np
import pulp

from hexsolve_models.offline.goal import Goal
from hexsolve_models.offline.listing import completed
from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem
from hexsolve_models.offline.windows import Windows, least_above, paths, windows

TOLERANCE = 1e-6  # of HiGHS on rows and whole numbers
Variables = dict[Any, pulp.LpVariable]


@dataclass
class MilpModel:
    """The native model and the way back; `deadline` as in `cpsat`."""

    problem: OfflineProblem
    goal: Goal
    deadline: list[int]
    windows: Windows
    model: pulp.LpProblem = field(default_factory=lambda: pulp.LpProblem("offline", pulp.LpMinimize))
    keep: Variables = field(default_factory=dict)
    x: Variables = field(default_factory=dict)
    y: Variables = field(default_factory=dict)
    s: Variables = field(default_factory=dict)
    t: Variables = field(default_factory=dict)
    f: dict[int, Any] = field(default_factory=dict)

    @property
    def big(self) -> int:
        """M: longer than the time that is looked at."""
        return max(self.deadline, default=0) + 1

    @property
    def calls(self) -> list[int]:
        """Calls of the workflows that may be kept."""
        return [c for c in range(self.problem.num_calls) if int(self.problem.workflow[c]) in self.keep]

    def bound(self, native: float) -> Fraction:
        """The goal's bound that a dual bound means: lowered by the tolerance, then up to the next possible value."""
        lowered = Fraction(native - TOLERANCE * max(1.0, abs(native)))
        problem = self.problem
        if self.goal.kind == "late_count":
            return Fraction(max(0, ceil(lowered)))
        if self.goal.kind == "req":
            return max(Fraction(0), least_above(problem, lowered))
        step = problem.num_workflows * lcm(*(int(reference) for reference in problem.reference_ticks))
        return Fraction(max(0, ceil(lowered * step)), max(1, step))

    def decision(self) -> OfflineDecision:
        """The solution's; workflows that are not kept come last."""
        chosen = {key for pool in (self.x, self.y) for key, variable in pool.items() if variable.value() > 0.5}
        place = {
            c: (
                next(r for pool, k, r in chosen if pool == "x" and k == c),
                next(r for pool, k, r in chosen if pool == "y" and k == c),
                round(self.s[c].value()),
                round(self.t[c].value()),
            )
            for c in self.calls
            if self.keep[int(self.problem.workflow[c])].value() > 0.5
        }
        return completed(self.problem, place)


def build(problem: OfflineProblem, goal: Goal, deadline: Sequence[int]) -> MilpModel:
    """The table of contents; F_w of a kept workflow is at most deadline[w] (int[W])."""
    m = MilpModel(problem, goal, list(deadline), windows(problem, paths(problem), deadline))
    which_workflows_count(m)
    one_replica_each(m)
    prefill_one_at_a_time(m)
    decode_after_arrival(m)
    decode_within_kv(m)
    minimise(m)
    return m


def which_workflows_count(m: MilpModel) -> None:
    """keep[w]; at least `num_kept` of them."""
    alone = m.windows.paths.workflow_finish(m.problem).tolist()
    for w in range(m.problem.num_workflows):
        if alone[w] <= m.deadline[w]:
            m.keep[w] = m.model.add_variable(f"keep{w}", cat="Binary")
    m.model += pulp.lpSum(m.keep.values()) >= m.goal.num_kept(m.problem.num_workflows)


def one_replica_each(m: MilpModel) -> None:
    """sum_p x[c,p] = sum_d y[c,d] = keep[w(c)]; s, t whole; f[c] = t[c] + sum_d decode_ticks y; s >= f before + lag."""
    problem, alone = m.problem, m.windows.paths
    for c in m.calls:
        prefill, decode = np.flatnonzero(m.windows.prefill[c]).tolist(), np.flatnonzero(m.windows.decode[c]).tolist()
        m.x.update({("x", c, p): m.model.add_variable(f"x{c}_{p}", cat="Binary") for p in prefill})
        m.y.update({("y", c, d): m.model.add_variable(f"y{c}_{d}", cat="Binary") for d in decode})
        keep = m.keep[int(problem.workflow[c])]
        m.model += pulp.lpSum(m.x["x", c, p] for p in prefill) == keep
        m.model += pulp.lpSum(m.y["y", c, d] for d in decode) == keep
        m.s[c] = m.model.add_variable(f"s{c}", int(alone.ready[c]), m.big, "Integer")
        m.t[c] = m.model.add_variable(f"t{c}", 0, m.big, "Integer")
        m.f[c] = m.t[c] + pulp.lpSum(int(problem.decode_ticks[c, d]) * m.y["y", c, d] for d in decode)
        m.model += m.f[c] <= int(m.windows.latest[c]) + m.big * (1 - keep)
    for c in m.calls:
        for before, lag in problem.parents[c]:
            m.model += m.s[c] >= m.f[before] + lag - m.big * (1 - m.keep[int(problem.workflow[c])])


def prefill_one_at_a_time(m: MilpModel) -> None:
    """o[i,j] = 1: i before j. s[j] >= s[i] + work[i,p] - M (3 - o[i,j] - x[i,p] - x[j,p]), o[j,i] = 1 - o[i,j]."""
    work = m.problem.prefill_work
    before: Variables = {}
    for i, j in permutations(m.calls, 2):
        for p in range(m.problem.num_prefill):
            if ("x", i, p) in m.x and ("x", j, p) in m.x and work[i, p] > 0 and work[j, p] > 0:
                first, second = min(i, j), max(i, j)
                if (first, second) not in before:
                    before[first, second] = m.model.add_variable(f"o{first}_{second}", cat="Binary")
                order = before[first, second] if i < j else 1 - before[first, second]
                both = m.x["x", i, p] + m.x["x", j, p]
                m.model += m.s[j] >= m.s[i] + int(work[i, p]) - 2 * m.big * (3 - order - both)


def decode_after_arrival(m: MilpModel) -> None:
    """t[c] >= s[c] + work[c,p] + transfer and t[c] >= ready + prefill_ticks[c,p] + transfer where x[c,p] and y[c,d]."""
    problem = m.problem
    for c in m.calls:
        lags, release = problem.transfer(c), int(problem.release_tick[problem.workflow[c]] + problem.ready_lag[c])
        for p in np.flatnonzero(m.windows.prefill[c]).tolist():
            for d in np.flatnonzero(m.windows.decode[c]).tolist():
                lag, missing = int(lags[p, d]), 2 - m.x["x", c, p] - m.y["y", c, d]
                far = 2 * (m.big + lag + int(problem.prefill_ticks[c, p]))
                m.model += m.t[c] >= m.s[c] + int(problem.prefill_work[c, p]) + lag - far * missing
                latency = int(problem.prefill_ticks[c, p]) + lag
                m.model += m.t[c] >= release + latency - far * missing
                for before, delay in problem.parents[c]:
                    m.model += m.t[c] >= m.f[before] + delay + latency - (far + delay) * missing


def decode_within_kv(m: MilpModel) -> None:
    """At the start of every j on d: kv[j] + sum of kv[i] over the other i that run on d then <= capacity.

    a[i,j] = 0: j starts before i. b[i,j] = 0: i ends by the start of j. u[i,j,d] >= y[i,d] + y[j,d] + a + b - 3.
    """
    problem = m.problem
    for d in range(problem.num_decode):
        calls = [c for c in m.calls if ("y", c, d) in m.y and problem.decode_ticks[c, d] > 0]
        capacity = int(problem.kv_capacity[d])
        if problem.kv_blocks[calls].sum() <= capacity:
            continue
        held: dict[int, list[Any]] = {j: [] for j in calls}
        for i, j in permutations(calls, 2):
            a, b = (m.model.add_variable(f"{name}{i}_{j}_{d}", cat="Binary") for name in "ab")
            u = m.model.add_variable(f"u{i}_{j}_{d}", 0, 1)
            m.model += m.t[i] >= m.t[j] + 1 - 2 * m.big * a
            m.model += m.t[j] >= m.f[i] - 2 * m.big * b
            m.model += u >= m.y["y", i, d] + m.y["y", j, d] + a + b - 3
            held[j].append(int(problem.kv_blocks[i]) * u)
        for j in calls:
            m.model += int(problem.kv_blocks[j]) * m.y["y", j, d] + pulp.lpSum(held[j]) <= capacity


def minimise(m: MilpModel) -> None:
    """late_count: workflows not kept. req: z >= (F_w - release_w) / reference_w for the kept w. mean_stretch: mean."""
    problem = m.problem
    if m.goal.kind == "late_count":
        m.model += problem.num_workflows - pulp.lpSum(m.keep.values())
        return
    last = {w: m.model.add_variable(f"F{w}", 0, m.deadline[w]) for w in m.keep}
    for c in m.calls:
        w = int(problem.workflow[c])
        m.model += last[w] >= m.f[c] - 2 * m.big * (1 - m.keep[w])
    ratio = {w: (last[w] - int(problem.release_tick[w])) * (1 / int(problem.reference_ticks[w])) for w in m.keep}
    if m.goal.kind == "mean_stretch":
        m.model += pulp.lpSum(ratio.values()) * (1 / max(1, problem.num_workflows))
        return
    z = m.model.add_variable("z", 0)
    m.model += z
    for w in m.keep:
        m.model += z >= ratio[w]
