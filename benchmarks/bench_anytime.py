"""The anytime solver on recorded epochs, against greedy, its own components and CP-SAT as it comes."""

import tempfile
from pathlib import Path

from benchmarks import anytime_tables
from benchmarks.anytime import ROWS_FILE, Plan, measure
from benchmarks.epochs import committed
from benchmarks.registry import Rows, benchmark


@benchmark("anytime", "Recorded epochs by size and budget: cost, bounds, times? Rows go to build/anytime.jsonl")
def anytime(smoke: bool) -> Rows:
    if not smoke:
        return anytime_tables.portfolio(measure(Plan(), ROWS_FILE))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Plan(budgets_ms=(5.0, 20.0)), Path(folder) / "rows.jsonl", epochs=committed()[:2])
    return anytime_tables.portfolio(rows)
