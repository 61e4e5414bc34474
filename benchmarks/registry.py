"""The list of benchmarks. Knows names and how to run them; knows nothing of what they measure."""

from collections.abc import Callable
from dataclasses import dataclass

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Benchmark:
    """`run(smoke)` returns rows to print; with `smoke` it does the same on a tiny size, to prove that it still runs."""

    name: str
    question: str
    run: Callable[[bool], Rows]


REGISTRY: dict[str, Benchmark] = {}


def benchmark(name: str, question: str) -> Callable[[Callable[[bool], Rows]], Callable[[bool], Rows]]:
    """Register a function under `name`; `question` is what its figures answer."""

    def register(run: Callable[[bool], Rows]) -> Callable[[bool], Rows]:
        if name in REGISTRY:
            raise ValueError(f"benchmark {name!r} is registered twice")
        REGISTRY[name] = Benchmark(name, question, run)
        return run

    return register


def table(rows: Rows) -> str:
    """Rows as a Markdown table, ready for RESULTS.md."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
