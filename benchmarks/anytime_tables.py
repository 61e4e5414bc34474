"""Tables of rows of `benchmarks.anytime`. Knows what figures mean; measures nothing.

`python -m benchmarks.anytime_tables FILE...` prints all of them. The best known cost of an epoch is the lowest that any
method found for it at any budget in the files given.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from math import exp, inf, log
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.anytime import Row, read_rows
from benchmarks.methods import GREEDY, PLAIN, PORTFOLIO
from benchmarks.registry import Rows, table

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
_SAME = 1e-9  # relative; costs are whole numbers


def best_known(rows: Iterable[Row]) -> dict[str, float]:
    """Epoch -> lowest cost."""
    best: defaultdict[str, float] = defaultdict(lambda: inf)
    for row in rows:
        best[row.epoch] = min(best[row.epoch], row.cost, row.greedy)
    return dict(best)


def limit_ms(budget_ms: float) -> float:
    """What a decision may take: the budget and 1 ms, and beyond 50 ms another tenth."""
    return budget_ms + 1.0 + (0.1 * budget_ms if budget_ms > 50.0 else 0.0)


def primal_integral(row: Row, best: float) -> float:
    """Mean over the budget of 1 - best / cost so far (Berthold, Oper. Res. Lett. 41, 2013); greedy's cost at first."""
    points = [(0.0, row.greedy), *((ms, price) for ms, _, price, _ in row.trace), (row.budget_ms, inf)]
    total, so_far = 0.0, row.greedy
    for (start, price), (end, _) in pairwise(points):
        so_far = min(so_far, price)
        total += max(0.0, min(end, row.budget_ms) - min(start, row.budget_ms)) * (1.0 - best / so_far)
    return total / row.budget_ms


def gap(row: Row) -> float:
    """Share of the cost that is not proved to be needed."""
    return max(0.0, 1.0 - row.bound / row.cost) if row.cost > 0 else 0.0


def geometric(values: Iterable[float]) -> float:
    """Geometric mean."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> list[tuple[Key, list[Item]]]:
    """Items by key, keys in order."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [(found, groups[found]) for found in sorted(groups)]  # type: ignore[type-var]


# -- the tables -------------------------------------------------------------------------------------------------------


def portfolio(rows: Sequence[Row]) -> Rows:
    """The portfolio by set and budget."""
    best = best_known(rows)
    mine = [row for row in rows if row.method == PORTFOLIO]
    return [
        {"waiting": waiting, "replicas": f"{replicas}x{replicas}", "budget_ms": budget_ms}
        | _quality(group, best)
        | _times(group)
        for (waiting, replicas, budget_ms), group in grouped(mine, lambda r: (r.waiting, r.replicas, r.budget_ms))
    ]


def sizes(rows: Sequence[Row]) -> Rows:
    """The portfolio by waiting calls and budget, all clusters together."""
    best = best_known(rows)
    mine = [row for row in rows if row.method == PORTFOLIO]
    return [
        {"waiting": waiting, "budget_ms": budget_ms} | _quality(group, best) | _times(group)
        for (waiting, budget_ms), group in grouped(mine, lambda row: (row.waiting, row.budget_ms))
    ]


def _quality(group: Sequence[Row], best: dict[str, float]) -> dict[str, object]:
    return {
        "epochs": len(group),
        "cost/greedy": geometric(row.cost / row.greedy for row in group),
        "better": _share(row.cost < row.greedy * (1 - _SAME) for row in group),
        "cost/best": geometric(row.cost / best[row.epoch] for row in group),
        "integral": float(np.mean([primal_integral(row, best[row.epoch]) for row in group])),
        "gap p50": float(np.median([gap(row) for row in group])),
        "optimal": _share(row.status == "OPTIMAL" for row in group),
    }


def _times(group: Sequence[Row]) -> dict[str, object]:
    walls = [ms for row in group for ms in row.decision_ms]
    adopted = [row.outcome.startswith("better") for row in group]
    return {
        "solve p50/p99 ms": _percentiles([row.wall_ms for row in group]),
        "decision p50/p99 ms": _percentiles(walls),
        "late": _share(ms > limit_ms(row.budget_ms) for row in group for ms in row.decision_ms),
        "adopted": _share(adopted),
        "gain": f"{np.mean([row.gain for row in group]):.1%}",
        "build p50": f"{np.median([row.build_ms / row.budget_ms for row in group]):.0%}",
    }


def methods(rows: Sequence[Row]) -> Rows:
    """Every method by waiting calls and budget: cost / greedy, geometric mean, and the share proved optimal."""
    timed = [row for row in rows if row.method not in (GREEDY, PLAIN)]
    names = sorted({row.method for row in timed}, key=lambda name: (name != PORTFOLIO, name))
    found: Rows = []
    for (waiting, budget_ms), group in grouped(timed, lambda row: (row.waiting, row.budget_ms)):
        cells: dict[str, object] = {"waiting": waiting, "budget_ms": budget_ms}
        for name in names:
            mine = [row for row in group if row.method == name and row.cost < inf]
            cells[name] = f"{geometric(r.cost / r.greedy for r in mine):.3f}, {_optimal(mine)}" if mine else "-"
        found.append(cells | {"epochs": len({row.epoch for row in group})})
    return found


def against_components(rows: Sequence[Row]) -> Rows:
    """The portfolio against the best single component at the same size and budget, paired by epoch."""
    timed = [row for row in rows if row.method not in (GREEDY, PLAIN)]
    found: Rows = []
    for (waiting, budget_ms), group in grouped(timed, lambda row: (row.waiting, row.budget_ms)):
        mean = {name: geometric(r.cost / r.greedy for r in mine) for name, mine in grouped(group, lambda r: r.method)}
        mine = mean.pop(PORTFOLIO, inf)
        if not mean or mine == inf:
            continue
        name = min(mean, key=mean.__getitem__)
        ratio = mine / mean[name]
        found.append({"waiting": waiting, "budget_ms": budget_ms, "best component": name, "portfolio / it": ratio})
    return found


def against_plain(rows: Sequence[Row]) -> Rows:
    """The portfolio at every budget against plain CP-SAT at its own, by set."""
    plain = {row.epoch: row for row in rows if row.method == PLAIN}
    mine = [row for row in rows if row.method == PORTFOLIO and row.epoch in plain]
    found: Rows = []
    for (waiting, replicas, budget_ms), group in grouped(mine, lambda r: (r.waiting, r.replicas, r.budget_ms)):
        pairs = [(row, plain[row.epoch]) for row in group]
        found.append(
            {
                "waiting": waiting,
                "replicas": f"{replicas}x{replicas}",
                "budget_ms": budget_ms,
                "epochs": len(pairs),
                "plain without a decision": _share(other.cost == inf for _, other in pairs),
                "portfolio / plain p50": float(np.median([row.cost / other.cost for row, other in pairs])),
                "as good or better": _share(row.cost <= other.cost for row, other in pairs),
                "plain / greedy p50": float(np.median([other.cost / other.greedy for _, other in pairs])),
                "plain optimal": _share(other.status == "OPTIMAL" for _, other in pairs),
            }
        )
    return found


def speed(rows: Sequence[Row]) -> Rows:
    """Work per second of each component by waiting calls: does a call cost more where there are more of them?"""
    mine = [row for row in rows if row.work > 0 and row.method not in (PORTFOLIO, GREEDY, PLAIN)]
    return [
        {
            "component": name,
            "waiting": waiting,
            "work per s": float(np.median([1e3 * r.work / r.wall_ms for r in group])),
        }
        for (name, waiting), group in grouped(mine, lambda row: (row.method, row.waiting))
    ]


def targets(rows: Sequence[Row]) -> Rows:
    """What was asked for, and what was measured."""
    mine = [row for row in rows if row.method == PORTFOLIO]
    found: Rows = []

    def check(what: str, value: float, met: bool, detail: str = "") -> None:
        found.append({"target": what, "measured": value, "met": "yes" if met else "NO", "detail": detail})

    p99 = {
        key: float(np.percentile([ms for row in group for ms in row.decision_ms], 99)) / limit_ms(key[-1])
        for key, group in grouped(mine, lambda r: (r.waiting, r.replicas, r.budget_ms))
    }
    if p99:
        worst = max(p99, key=p99.__getitem__)
        missed = sum(ratio > 1 for ratio in p99.values())
        check("decision p99 / limit, worst set", p99[worst], not missed, f"{worst}; {missed} of {len(p99)} missed")
    for row in against_plain(rows):
        if (row["waiting"], row["replicas"], row["budget_ms"]) == (64, "8x8", 20.0):
            ratio = float(str(row["portfolio / plain p50"]))
            check("20 ms, 64 on 8x8: portfolio / plain CP-SAT p50 <= 1", ratio, ratio <= 1.0)
    for size, budget_ms in ((8, 50.0), (16, 1000.0)):
        group = [row for row in mine if row.waiting <= size and row.budget_ms == budget_ms]
        if group:
            share = float(np.mean([row.status == "OPTIMAL" for row in group]))
            check(f"{budget_ms:g} ms, <= {size} waiting: optimal >= 80 %", share, share >= 0.8, f"{len(group)} epochs")
    pairs = against_components(rows)
    if pairs:
        row = max(pairs, key=lambda pair: float(str(pair["portfolio / it"])))
        ratio = float(str(row["portfolio / it"]))
        detail = f"{row['waiting']} waiting, {row['budget_ms']:g} ms, {row['best component']}"
        check("portfolio / best component <= 1.01", ratio, ratio <= 1.01, detail)
    group = [row for row in mine if (row.waiting, row.replicas, row.budget_ms) == (1024, 64, 200.0)]
    if group:
        share = float(np.mean([row.cost < row.greedy for row in group]))
        check("200 ms, 1,024 on 64x64: better than greedy >= 90 %", share, share >= 0.9, f"{len(group)} epochs")
    shares = {
        key: float(np.median([row.build_ms / row.budget_ms for row in group]))
        for key, group in grouped(mine, lambda r: (r.waiting, r.budget_ms))
    }
    if shares:
        key = max(shares, key=shares.__getitem__)
        check("model building / budget p50 <= 25 %, worst", shares[key], shares[key] <= 0.25, f"{key}")
    return found


def _optimal(group: Sequence[Row]) -> str:
    return _share(row.status == "OPTIMAL" for row in group)


def _share(values: Iterable[bool]) -> str:
    listed = list(values)
    return f"{sum(listed) / len(listed):.0%}" if listed else "-"


def _percentiles(values: Sequence[float]) -> str:
    return f"{np.median(values):.1f} / {np.percentile(values, 99):.1f}" if len(values) else "-"


TABLES = (targets, sizes, portfolio, methods, against_components, against_plain, speed)


def print_tables(rows: Sequence[Row], only: Sequence[str] | None = None) -> None:
    """Those named, or all that have content."""
    for make in TABLES:
        content = make(rows) if only is None or make.__name__ in only else []
        if content:
            print(f"\n{(make.__doc__ or '').strip()}\n\n{table(content)}")


def main() -> None:
    """Print tables of the rows in FILE..."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anytime_tables", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--only", choices=[make.__name__ for make in TABLES], nargs="+", help="default: all")
    given = parser.parse_args()
    print_tables([row for file in given.files for row in read_rows(file)], given.only)


if __name__ == "__main__":
    main()
