"""Evidence for the portfolio from rows of `benchmarks.anytime`: which components pay at which size and budget?

`python -m benchmarks.portfolio_calibration FILE...` prints it; use tuning seeds (below 100). Knows rows and the rule
below; runs nothing. What one component leaves to the next (hexsolve/portfolio.py) is compared by `benchmarks.anytime`.

A component deserves to follow the local search where, alone at that size and budget, it is cheaper by more than 0.5 %
in the geometric mean, or proves at least a fifth more of the epochs optimal; among several the one with most proofs,
then the cheapest. The search settles when it comes within 0.5 % of its own result.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from benchmarks.anytime import Row, read_rows
from benchmarks.anytime_tables import geometric, grouped
from benchmarks.methods import GREEDY, PLAIN, PORTFOLIO
from benchmarks.registry import Rows, table
from hexsolve.components import LOCAL_SEARCH

CHEAPER, MORE_PROOFS, NEAR = 0.005, 0.2, 0.005


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured at one size and budget, and what follows: the component after the local search ("" = none)."""

    waiting: int
    budget_ms: float
    epochs: int
    relative: dict[str, float]  # component -> cost / greedy
    proved: dict[str, float]  # component -> share of epochs
    search_share: float
    follower: str


def findings(rows: Sequence[Row]) -> list[Finding]:
    """By size and budget; only epochs that every component has answered count."""
    alone = [row for row in rows if row.method not in (PORTFOLIO, GREEDY, PLAIN)]
    found = []
    for (waiting, budget_ms), group in grouped(alone, lambda row: (row.waiting, row.budget_ms)):
        by_method = dict(grouped((row for row in group if row.cost < inf), lambda row: row.method))
        if LOCAL_SEARCH not in by_method:
            continue
        common = set.intersection(*({row.epoch for row in mine} for mine in by_method.values()))
        paired = {name: [row for row in mine if row.epoch in common] for name, mine in by_method.items()}
        if common:
            found.append(_finding(waiting, budget_ms, len(common), paired))
    return found


def _finding(waiting: int, budget_ms: float, epochs: int, by_method: dict[str, list[Row]]) -> Finding:
    relative = {name: geometric(row.cost / row.greedy for row in mine) for name, mine in by_method.items()}
    proved = {name: float(np.mean([r.status == "OPTIMAL" for r in mine])) for name, mine in by_method.items()}
    worth = [
        name
        for name in by_method
        if name != LOCAL_SEARCH
        and (
            relative[name] < relative[LOCAL_SEARCH] * (1 - CHEAPER)
            or proved[name] >= proved[LOCAL_SEARCH] + MORE_PROOFS
        )
    ]
    follower = min(worth, key=lambda name: (-proved[name], relative[name]), default="")
    share = float(np.median([settled_ms(row) for row in by_method[LOCAL_SEARCH]])) / budget_ms
    return Finding(waiting, budget_ms, epochs, relative, proved, share, follower)


def settled_ms(row: Row) -> float:
    """When a method came within `NEAR` of its final cost."""
    return min((ms for ms, _, price, _ in row.trace if price <= row.cost * (1 + NEAR)), default=0.0)


def evidence(found: Sequence[Finding]) -> Rows:
    """A table of all findings."""
    names = sorted({name for finding in found for name in finding.relative})
    rows: Rows = []
    for finding in found:
        cells: dict[str, object] = {
            "waiting": finding.waiting,
            "budget_ms": finding.budget_ms,
            "epochs": finding.epochs,
        }
        for name in names:
            is_there = name in finding.relative
            cells[name] = f"{finding.relative[name]:.3f}, {finding.proved[name]:.0%}" if is_there else "-"
        rows.append(cells | {"search settles at": f"{finding.search_share:.0%}", "then": finding.follower or "-"})
    return rows


def main() -> None:
    """Print the evidence."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portfolio_calibration", description=main.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    found = findings([row for file in parser.parse_args().files for row in read_rows(file)])
    print(f"Cost / greedy (geometric mean) and share proved optimal, each component alone:\n\n{table(evidence(found))}")


if __name__ == "__main__":
    main()
