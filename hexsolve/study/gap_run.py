"""The instances of a gap study computed, each thing once: policies, then brackets. Knows the order; knows no tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from hexsolve.study.gap_bracket import Bracket, BracketRow, Effort
from hexsolve.study.gap_epochs import EpochRow, Epochs
from hexsolve.study.slo_cell import Cell, Place, Row
from hexsolve.study.slo_pool import Pool
from hexsolve.study.slo_run import OnProgress, denominators, keep, run_cells
from hexsolve.study.slo_store import Kept, Store

FOLDERS: dict[type[Kept], str] = {BracketRow: "brackets", EpochRow: "epochs"}
"""Where a store keeps what gap studies add."""


@dataclass(frozen=True)
class Instance:
    """A place under a seed and everything that is known of it.

    Attributes
    ----------
    rows : by policy, those that failed included. bracket : bounds and best schedules, or why there are none.
    epochs : gaps of single epochs, where they were asked for.
    """

    place: Place
    seed: int
    rows: dict[str, Row]
    bracket: BracketRow
    epochs: EpochRow | None = None

    @property
    def label(self) -> str:
        """All of it in one line."""
        return f"{short_label(self.place)}, seed {self.seed}"

    @property
    def errors(self) -> dict[str, str]:
        """By policy, or ``bracket``, ``epochs``."""
        kept: dict[str, Kept] = {**self.rows, "bracket": self.bracket}
        if self.epochs is not None:
            kept["epochs"] = self.epochs
        return {name: row.error for name, row in kept.items() if row.error}


def short_label(place: Place) -> str:
    """Workload, cluster and load in one line."""
    return f"{place.workload} on {place.cluster.name}, {place.load.label}"


def run_gaps(
    cells: Sequence[Cell],
    effort: Effort,
    store: Store,
    pool: Pool,
    on_progress: OnProgress = lambda progress: None,
    *,
    epochs_ms: float | None = None,
    retry_failed: bool = False,
) -> list[Instance]:
    """Every instance of `cells`, in their order; only what the store does not have is computed.

    Parameters
    ----------
    store : made with `FOLDERS`.
    epochs_ms : planning budget for which the gaps of single epochs are measured; None: they are not.
    retry_failed : compute anew what is there but holds an error.
    """
    results = run_cells(cells, store, pool, on_progress, retry_failed=retry_failed)
    alone = denominators([cell.alone for cell in cells], store, pool, on_progress)
    grouped: dict[tuple[object, ...], list[tuple[Cell, Row]]] = {}
    for cell, row in results:
        grouped.setdefault((cell.seed, *cell.place.identity), []).append((cell, row))
    tasks = []
    for group in grouped.values():
        first = group[0][0]
        good = tuple((cell.variant.label, row) for cell, row in group if not row.error)
        tasks.append(Bracket(first.place, first.seed, tuple(alone[first.alone.key].alone_ms), good, effort))
    brackets = keep("brackets", tasks, BracketRow, _bracket, store, pool, on_progress, retry_failed=retry_failed)
    watched = [] if epochs_ms is None else [Epochs(task.place, task.seed, epochs_ms) for task in tasks]
    epochs = keep("epochs", watched, EpochRow, _epochs, store, pool, on_progress, retry_failed=retry_failed)
    return [
        Instance(
            task.place,
            task.seed,
            {cell.variant.label: row for cell, row in group},
            brackets[task.key],
            epochs[watched[position].key] if watched else None,
        )
        for position, (task, group) in enumerate(zip(tasks, grouped.values(), strict=True))
    ]


def _bracket(task: Bracket) -> BracketRow:
    return task.compute()


def _epochs(task: Epochs) -> EpochRow:
    return task.compute()
