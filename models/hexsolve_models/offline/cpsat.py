"""A whole instance as a CP-SAT model, exact. Knows `OfflineProblem` and goals; knows nothing of time limits.

Symbols and sections as in models/README.md §9.4. A workflow that is not kept leaves the model altogether: it can always
be served behind all others. Deadlines from a known decision make the windows, and windows make the model.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from ortools.sat.python import cp_model

from hexsolve_models.offline.cpsat_variables import CpsatModel, is_whole, scale_of, twins_decode, twins_prefill
from hexsolve_models.offline.goal import Goal
from hexsolve_models.offline.problem import OfflineProblem
from hexsolve_models.offline.windows import paths, windows

MOST_TICKS = 2**28  # OR-Tools 9.15 may report a wrong optimum if an enforced row ranges over 2^31 or more


def build(problem: OfflineProblem, goal: Goal, deadline: Sequence[int]) -> CpsatModel:
    """The table of contents.

    Parameters
    ----------
    deadline
        [W]: F_w of a kept workflow is at most this.

    Raises
    ------
    ValueError
        If a deadline is 2^28 ticks or later.
    """
    if max(deadline, default=0) >= MOST_TICKS:
        raise ValueError(f"deadline of tick {max(deadline)}: expected below {MOST_TICKS}; use longer ticks")
    alone = paths(problem)
    scale = scale_of(problem, goal)
    weights = [scale // int(reference) for reference in problem.reference_ticks]
    m = CpsatModel(problem, goal, list(deadline), windows(problem, alone, deadline), scale, weights)
    which_workflows_count(m)
    one_replica_each(m)
    ready_after_edges(m)
    prefill_one_at_a_time(m)
    decode_after_arrival(m)
    decode_within_kv(m)
    prefill_energy(m)
    twins_in_order(m)
    minimise(m)
    return m


def which_workflows_count(m: CpsatModel) -> None:
    """keep[w]; at least `num_kept` of them. Workflows that cannot make their deadline alone are not kept."""
    problem, alone = m.problem, m.windows.paths.workflow_finish(m.problem).tolist()
    able = [w for w in range(problem.num_workflows) if alone[w] <= m.deadline[w]]
    needed = m.goal.num_kept(problem.num_workflows)
    for w in able:
        m.keep[w] = m.model.new_bool_var(f"keep{w}")
    m.model.add(sum(m.keep.values()) >= needed)


def one_replica_each(m: CpsatModel) -> None:
    """sum_p x[c,p] = keep[w(c)] = sum_d y[c,d], over the replicas through which c can be in time; s, e in windows."""
    problem, w = m.problem, m.windows
    least = w.paths.via.min(axis=(1, 2))
    for c in range(problem.num_calls):
        workflow = int(problem.workflow[c])
        if workflow not in m.keep:
            continue
        pairs = w.paths.ready[c] + w.paths.via[c] <= w.latest[c]
        m.x[c] = {p: m.model.new_bool_var(f"x{c},{p}") for p in np.flatnonzero(w.prefill[c]).tolist()}
        m.y[c] = {d: m.model.new_bool_var(f"y{c},{d}") for d in np.flatnonzero(w.decode[c]).tolist()}
        m.model.add(sum(m.x[c].values()) == m.keep[workflow])
        m.model.add(sum(m.y[c].values()) == m.keep[workflow])
        for p, d in np.argwhere(~pairs).tolist():
            if p in m.x[c] and d in m.y[c]:
                m.model.add_bool_or(~m.x[c][p], ~m.y[c][d])
        slack = int(w.latest[c] - w.paths.ready[c] - least[c])
        first, behind = int(w.paths.ready[c]), _behind(problem, c, m)
        wait = max(_latency_less_work(problem, c, m))
        m.s[c] = m.model.new_int_var(first, first + slack + wait, f"s{c}")
        ticks = min(int(problem.prefill_ticks[c, p]) for p in m.x[c])
        m.e[c] = m.model.new_int_var(first + ticks, int(w.latest[c]) - behind, f"e{c}")


def ready_after_edges(m: CpsatModel) -> None:
    """s[c] >= ready and e[c] >= ready + sum_p prefill_ticks x for every edge into c; e[c] >= s[c] + sum_p work x.

    The last holds with equality, and says the one before it, where work and ticks are the same.
    """
    problem = m.problem
    create_decode(m)
    for c in m.calls:
        work = sum(int(problem.prefill_work[c, p]) * x for p, x in m.x[c].items())
        ticks = sum(int(problem.prefill_ticks[c, p]) * x for p, x in m.x[c].items())
        whole = is_whole(problem, c)
        if whole:
            row = m.model.add(m.e[c] == m.s[c] + work)
            if not _all_kept(m):
                row.only_enforce_if(m.keep[int(problem.workflow[c])])
        else:
            m.model.add(m.e[c] >= m.s[c] + work)
            m.model.add(m.e[c] >= int(problem.release_tick[problem.workflow[c]] + problem.ready_lag[c]) + ticks)
        for before, lag in problem.parents[c]:
            m.model.add(m.s[c] >= m.f[before] + lag)
            if not whole:
                m.model.add(m.e[c] >= m.f[before] + lag + ticks)


def create_decode(m: CpsatModel) -> None:
    """t[c], and f[c] = t[c] + sum_d decode_ticks y; no t of its own where the way from e to f has but one length."""
    problem, w = m.problem, m.windows
    scarce = _scarce(m)
    for c in m.calls:
        lags = problem.transfer(c)
        behind = {(int(lags[p, d]), int(problem.decode_ticks[c, d])) for p in m.x[c] for d in m.y[c]}
        if len(behind) == 1 and not scarce.intersection(m.y[c]):
            lag, ticks = behind.pop()
            m.t[c] = m.e[c] + lag
            m.f[c] = m.e[c] + lag + ticks
            continue
        shortest = min(int(problem.decode_ticks[c, d]) for d in m.y[c])
        earliest = int((w.paths.ready[c] + w.paths.via[c] - problem.decode_ticks[c]).min())
        m.waiting.add(c)
        m.t[c] = m.model.new_int_var(earliest, int(w.latest[c]) - shortest, f"t{c}")
        m.f[c] = m.model.new_int_var(int(w.paths.finish[c]), int(w.latest[c]), f"f{c}")
        m.model.add(m.f[c] >= m.t[c] + sum(int(problem.decode_ticks[c, d]) * y for d, y in m.y[c].items()))


def prefill_one_at_a_time(m: CpsatModel) -> None:
    """No overlap of [s[c], s[c] + prefill_work[c,p]) over the c with x[c,p]."""
    for p in range(m.problem.num_prefill):
        intervals = [
            m.model.new_optional_fixed_size_interval_var(m.s[c], int(m.problem.prefill_work[c, p]), m.x[c][p], f"p{c}")
            for c in m.calls
            if p in m.x[c] and m.problem.prefill_work[c, p] > 0
        ]
        if len(intervals) > 1:
            m.model.add_no_overlap(intervals)


def decode_after_arrival(m: CpsatModel) -> None:
    """t[c] >= e[c] + transfer[c,p,d] if x[c,p] and y[c,d].

    With u_p = min_d transfer and v_d = min_p transfer, t >= e + sum u_p x and t >= e + sum v_d y say it for pairs with
    transfer = max(u_p, v_d); the others get an enforced row.
    """
    for c in sorted(m.waiting):
        lags, xs, ys = m.problem.transfer(c), m.x[c], m.y[c]
        source = {p: min(int(lags[p, d]) for d in ys) for p in xs}
        target = {d: min(int(lags[p, d]) for p in xs) for d in ys}
        m.model.add(m.t[c] >= m.e[c] + sum(source[p] * x for p, x in xs.items()))
        m.model.add(m.t[c] >= m.e[c] + sum(target[d] * y for d, y in ys.items()))
        for p, x in xs.items():
            for d, y in ys.items():
                if lags[p, d] > max(source[p], target[d]):
                    m.model.add(m.t[c] >= m.e[c] + int(lags[p, d])).only_enforce_if(x, y)


def decode_within_kv(m: CpsatModel) -> None:
    """sum of kv_blocks over the c with y[c,d] and t[c] <= tick < t[c] + decode_ticks <= capacity[d]."""
    problem = m.problem
    for d in sorted(_scarce(m)):
        calls = [c for c in m.calls if d in m.y[c] and problem.decode_ticks[c, d] > 0]
        intervals = [
            m.model.new_optional_fixed_size_interval_var(m.t[c], int(problem.decode_ticks[c, d]), m.y[c][d], f"d{c}")
            for c in calls
        ]
        m.model.add_cumulative(intervals, problem.kv_blocks[calls].tolist(), int(problem.kv_capacity[d]))


def prefill_energy(m: CpsatModel) -> None:
    """For each p: sum_c prefill_work x[c,p] <= end - first head - least tail, end the last finish. Redundant.

    Only where one workflow is all there is: its F is the end. With several, what is late is another question.
    """
    if m.problem.num_workflows > 1 or not m.keep:
        return
    last = m.F[0] = m.model.new_int_var(int(m.windows.paths.workflow_finish(m.problem)[0]), m.deadline[0], "F0")
    for p in range(m.problem.num_prefill):
        calls = [c for c in m.calls if p in m.x[c]]
        if not calls:
            continue
        head = min(int(m.windows.paths.ready[c]) for c in calls)
        tail = min(_behind(m.problem, c, m) + int(m.windows.paths.tail[c]) for c in calls)
        m.model.add(sum(int(m.problem.prefill_work[c, p]) * m.x[c][p] for c in calls) <= last - head - tail)


def twins_in_order(m: CpsatModel) -> None:
    """Of interchangeable replicas a later one is used by a call only if an earlier call uses the one before it."""
    for pool, groups in ((m.x, twins_prefill(m.problem)), (m.y, twins_decode(m.problem))):
        for group in groups:
            for before, replica in pairwise(group):
                earlier: list[cp_model.IntVar] = []
                for c in m.calls:
                    if replica in pool[c]:
                        m.model.add_bool_or(~pool[c][replica], *earlier)
                    if before in pool[c]:
                        earlier.append(pool[c][before])


def minimise(m: CpsatModel) -> None:
    """late_count: workflows not kept. req: z with z reference_w >= S (F_w - release_w) for the kept w.
    mean_stretch: sum_w floor(S / reference_w) (F_w - release_w)."""
    problem, alone = m.problem, m.windows.paths.workflow_finish(m.problem).tolist()
    if m.goal.kind == "late_count":
        m.model.minimize(problem.num_workflows - sum(m.keep.values()))
        return
    for w, keep in m.keep.items():
        release = int(problem.release_tick[w])
        lowest = alone[w] if _all_kept(m) else release
        if w not in m.F:
            m.F[w] = m.model.new_int_var(lowest, m.deadline[w], f"F{w}")
        for c in m.calls:
            if problem.workflow[c] == w and not problem.children[c]:
                row = m.model.add(m.F[w] >= m.f[c])
                if not _all_kept(m):
                    row.only_enforce_if(keep)
    if m.goal.kind == "mean_stretch":
        m.model.minimize(sum(m.weights[w] * (last - int(problem.release_tick[w])) for w, last in m.F.items()))
        return
    most = max(
        (-(-(m.deadline[w] - int(problem.release_tick[w])) * m.scale // int(problem.reference_ticks[w])) for w in m.F),
        default=0,
    )
    z = m.model.new_int_var(0, most, "z")
    m.z.append(z)
    for w, last in m.F.items():
        m.model.add(int(problem.reference_ticks[w]) * z >= m.scale * (last - int(problem.release_tick[w])))
    m.model.minimize(z)


def _all_kept(m: CpsatModel) -> bool:
    return m.goal.num_kept(m.problem.num_workflows) == m.problem.num_workflows


def _behind(problem: OfflineProblem, c: int, m: CpsatModel) -> int:
    """Least ticks from prefill end to finish of the call."""
    lags = problem.transfer(c)
    return min(int(lags[p, d]) + int(problem.decode_ticks[c, d]) for p in m.x[c] for d in m.y[c])


def _latency_less_work(problem: OfflineProblem, c: int, m: CpsatModel) -> list[int]:
    return [int(problem.prefill_ticks[c, p] - problem.prefill_work[c, p]) for p in m.x[c]]


def _scarce(m: CpsatModel) -> set[int]:
    """Decode replicas whose KV can run out."""
    wanted: dict[int, int] = defaultdict(int)
    for c in m.calls:
        for d in m.y[c]:
            wanted[d] += int(m.problem.kv_blocks[c])
    return {d for d, blocks in wanted.items() if blocks > m.problem.kv_capacity[d]}
