"""The cells of a study computed, each once. Knows what is left to do and how long it may take; knows no tables.

Denominators first, then rows; both are kept as soon as they are there, by this process alone, so workers need not share
its disk. Rows depend on nothing but their cell: not on the number of workers, nor on the order in which they are done.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol, TypeVar

from hexsolve.study.slo_cell import Alone, AloneRow, Cell, Row
from hexsolve.study.slo_pool import Crash, Pool
from hexsolve.study.slo_store import Kept, Store


@dataclass(frozen=True)
class Progress:
    """How far a study is. `phase` ``alone`` or ``cells``; `done` and `total` tasks of the phase, those found included;
    `failed` of them; `left_s` seconds to the end of the phase at the pace so far, None while nothing is known."""

    phase: str
    done: int
    total: int
    failed: int = 0
    left_s: float | None = None


class Keyed(Protocol):
    """A task with the digest of all that its row depends on."""

    @property
    def key(self) -> str: ...


KeyedTask = TypeVar("KeyedTask", bound=Keyed)
KeptRow = TypeVar("KeptRow", bound=Kept)

OnProgress = Callable[[Progress], None]


def run_cells(
    cells: Sequence[Cell],
    store: Store,
    pool: Pool,
    on_progress: OnProgress = lambda progress: None,
    *,
    retry_failed: bool = False,
) -> list[tuple[Cell, Row]]:
    """Every cell with its row, in the order of `cells`; only rows that the store does not have are computed.

    Parameters
    ----------
    retry_failed : compute rows anew that are there but hold an error.
    """
    rows = {cell.key: row for cell in cells if (row := store.row(cell.key)) is not None}
    if retry_failed:
        rows = {key: row for key, row in rows.items() if not row.error}
    left = list({cell.key: cell for cell in cells if cell.key not in rows}.values())
    alone_rows = denominators([cell.alone for cell in left], store, pool, on_progress, retry_failed=retry_failed)
    tasks: list[tuple[Cell, list[float]]] = []
    for cell in left:
        alone = alone_rows[cell.alone.key]
        if alone.error:
            rows[cell.key] = Row(cell.key, error=f"alone on the cluster: {alone.error}")
        else:
            tasks.append((cell, alone.alone_ms))
    pace = _Pace(pool.workers, [cell for cell, _ in tasks])
    for cell in cells:
        if cell.key in rows and not rows[cell.key].error:
            pace.note(cell, rows[cell.key])
    total, failed = len({cell.key for cell in cells}), sum(1 for row in rows.values() if row.error)
    on_progress(Progress("cells", len(rows), total, failed, pace.left_s()))
    for position, result in pool.map(_compute_cell, tasks):
        cell = tasks[position][0]
        row = Row(cell.key, error=str(result)) if isinstance(result, Crash) else result
        store.put(row)
        rows[cell.key] = row
        pace.done(cell, row)
        failed += bool(row.error)
        on_progress(Progress("cells", len(rows), total, failed, pace.left_s()))
    return [(cell, rows[cell.key]) for cell in cells]


def denominators(
    wanted: Iterable[Alone], store: Store, pool: Pool, on_progress: OnProgress, *, retry_failed: bool = False
) -> dict[str, AloneRow]:
    """H_w by key; only what the store does not have is computed."""
    return keep("alone", wanted, AloneRow, _compute_alone, store, pool, on_progress, retry_failed=retry_failed)


def keep(
    phase: str,
    wanted: Iterable[KeyedTask],
    kind: type[KeptRow],
    compute: Callable[[KeyedTask], KeptRow],
    store: Store,
    pool: Pool,
    on_progress: OnProgress,
    *,
    retry_failed: bool = False,
) -> dict[str, KeptRow]:
    """Rows of one kind by key: those that the store has, the others computed and kept.

    Parameters
    ----------
    wanted : tasks; of those with one key only one is computed. compute : must not raise.
    kind : of the rows; made with a key and an error if the process of a task dies.
    """
    unique = {task.key: task for task in wanted}
    found = {key: row for key in unique if (row := store.find(kind, key)) is not None}
    if retry_failed:
        found = {key: row for key, row in found.items() if not row.error}
    tasks = [task for key, task in unique.items() if key not in found]
    started_s, num_found = time.monotonic(), len(found)
    if tasks:
        on_progress(Progress(phase, len(found), len(unique)))
    for position, result in pool.map(compute, tasks):
        key = tasks[position].key
        row = kind(key, error=str(result)) if isinstance(result, Crash) else result
        store.put(row)
        found[key] = row
        pace_s = (time.monotonic() - started_s) / (len(found) - num_found)
        failed = sum(1 for row in found.values() if row.error)
        on_progress(Progress(phase, len(found), len(unique), failed, pace_s * (len(unique) - len(found))))
    return found


def _compute_cell(task: tuple[Cell, list[float]]) -> Row:
    cell, alone_ms = task
    return cell.compute(alone_ms)


def _compute_alone(task: Alone) -> AloneRow:
    return task.compute()


class _Pace:
    """Time left: a cell will take what cells of its place and policy took, else of its workload and policy, else all.

    Rows know CPU time; what else passes (making workloads, other people's jobs) is taken from the cells done so far.
    """

    def __init__(self, workers: int, left: Sequence[Cell]) -> None:
        self._workers = workers
        self._started_s, self._cpu_s = time.monotonic(), 0.0
        self._left = {cell.key: cell for cell in left}
        self._seen: dict[tuple[object, ...], list[float]] = defaultdict(list)

    def note(self, cell: Cell, row: Row) -> None:
        for group in _groups(cell):
            self._seen[group].append(row.cpu_s)

    def done(self, cell: Cell, row: Row) -> None:
        del self._left[cell.key]
        if not row.error:
            self.note(cell, row)
            self._cpu_s += row.cpu_s

    def left_s(self) -> float | None:
        if not self._seen:
            return None
        means = {group: fmean(seen) for group, seen in self._seen.items()}
        cpu_s = (next(means[group] for group in _groups(cell) if group in means) for cell in self._left.values())
        spent_s = time.monotonic() - self._started_s
        return sum(cpu_s) * (spent_s / self._cpu_s if self._cpu_s else 1.0 / self._workers)


def _groups(cell: Cell) -> tuple[tuple[object, ...], ...]:
    label = cell.variant.label
    return (cell.place.identity, label), (cell.place.source, cell.place.workflows, label), (label,), ()
