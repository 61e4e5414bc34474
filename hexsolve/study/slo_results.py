"""Rows of an SLO study as figures, CSV, Parquet, Markdown and JSON. Knows rows and intervals; runs nothing.

Policies of one place and seed saw the same workflows at the same times, so they are compared pair by pair: the relative
difference to the reference of every seed, its mean and a 95 % bootstrap interval over seeds. A seed in which either of
the two failed is no pair.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hexsolve.errors import InputError
from hexsolve.sim import attainment, mean_stretch, required_scale
from hexsolve.study.report import Interval, interval, totals, versions
from hexsolve.study.slo_cell import Cell, Place, Row
from hexsolve.study.slo_config import Study

SCHEMA = "hexsolve.study.slo.v1"
CONTENDED = 2.0
"""Places where the reference's Req95 is at least this are summed up apart: elsewhere policies hardly differ."""
WORSE = 0.02
"""A place counts as lost from this relative difference in Req95 on."""

_MEASURES: dict[str, Callable[[Sequence[float]], float]] = {
    "req95": lambda stretches: required_scale(stretches, 0.95),
    "req99": lambda stretches: required_scale(stretches, 0.99),
    "mean_stretch": mean_stretch,
}
MEASURES = tuple(_MEASURES)


@dataclass(frozen=True)
class Entry:
    """A policy in a place: its rows over seeds.

    Attributes
    ----------
    label : of the policy; rows : by seed, without failed ones; errors : of those, by seed.
    """

    label: str
    rows: dict[int, Row]
    errors: dict[int, str]

    def measure(self, name: str) -> dict[int, float]:
        """One of `MEASURES` by seed."""
        return {seed: _MEASURES[name](row.stretches) for seed, row in self.rows.items()}

    def interval(self, name: str) -> Interval:
        """One of `MEASURES` over seeds; there has to be a row."""
        return interval(list(self.measure(name).values()))

    def on_time(self, scale: float) -> float:
        """Share of workflows with a stretch of at most `scale`, mean over seeds."""
        return fmean(float(attainment(row.stretches, [scale])[0]) for row in self.rows.values())

    def relative_to(self, other: "Entry", name: str) -> Interval | None:
        """This over `other`, minus 1, paired by seed; None without a pair."""
        mine, theirs = self.measure(name), other.measure(name)
        pairs = [mine[seed] / theirs[seed] - 1.0 for seed in mine if seed in theirs]
        return interval(pairs) if pairs else None

    @cached_property
    def mechanisms(self) -> dict[str, float]:
        """How often each mechanism fired, seeds added up.

        `waits` and `kv_waits` per call, `contended` per KV transfer, `moves` per call; `adopted` plans of a solver that
        were adopted per decision.
        """
        counts = totals(row.counters for row in self.rows.values())
        outcomes = totals(row.outcomes for row in self.rows.values())
        calls = max(1, sum(row.num_calls for row in self.rows.values()))
        return {
            "waits": counts["prefill_waits"] / calls,
            "kv_waits": counts["kv_waits"] / calls,
            "contended": counts["transfers_contended"] / max(1, counts["transfers"]),
            "moves": counts["moves"] / calls,
            "adopted": outcomes["plan adopted"] / max(1, counts["decisions"]),
        }


@dataclass(frozen=True)
class Comparison:
    """A place and what every policy made of it, in the order of the study."""

    place: Place
    entries: dict[str, Entry]
    reference: str

    @property
    def base(self) -> Entry:
        """The entry of the reference."""
        return self.entries[self.reference]

    @property
    def contended(self) -> bool:
        """Whether the reference's Req95 is at least `CONTENDED`."""
        return bool(self.base.rows) and self.base.interval("req95").mean >= CONTENDED


def compare(results: Sequence[tuple[Cell, Row]], reference: str) -> list[Comparison]:
    """Rows by place and policy; the reference is the first policy where `reference` did not run."""
    places: dict[tuple[object, ...], Place] = {}
    found: dict[tuple[object, ...], dict[str, Entry]] = {}
    for cell, row in results:
        identity = cell.place.identity
        places.setdefault(identity, cell.place)
        label = cell.variant.label
        entry = found.setdefault(identity, {}).setdefault(label, Entry(label, {}, {}))
        if row.error:
            entry.errors[cell.seed] = row.error
        else:
            entry.rows[cell.seed] = row
    return [
        Comparison(places[identity], entries, reference if reference in entries else next(iter(entries)))
        for identity, entries in found.items()
    ]


def attainment_band(
    rows: Sequence[Row], scales: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Attainment over SLO scales: mean over seeds and its 95 % bootstrap interval, three f8[len(scales)]."""
    curves = np.array([attainment(row.stretches, scales) for row in rows])
    draws = np.random.default_rng(0).integers(0, len(curves), (1000, len(curves)))
    low, high = np.percentile(curves[draws].mean(axis=1), [2.5, 97.5], axis=0)
    return curves.mean(axis=0), low, high


# -- rows -------------------------------------------------------------------------------------------------------------


def flat_rows(results: Sequence[tuple[Cell, Row]], study: Study) -> list[dict[str, Any]]:
    """One flat record per cell, the same columns in every one; figures of a failed cell are None."""
    return [_flat(cell, row, study) for cell, row in results]


def _flat(cell: Cell, row: Row, study: Study) -> dict[str, Any]:
    place, ran = cell.place, not row.error
    record: dict[str, Any] = {
        "key": row.key,
        "cluster": place.cluster.name,
        "workload": place.workload,
        "workflows": len(row.stretches) if ran else place.workflows,
        "load": place.load.label,
        "rho": place.load.value if place.load.kind == "rho" else None,
        "rate_per_s": place.load.value if place.load.kind == "rate" else None,
        "setting": place.setting.name,
        "policy": cell.variant.label,
        "seed": cell.seed,
        "error": row.error,
        "num_calls": row.num_calls if ran else None,
    }
    record |= {name: measure(row.stretches) if ran else None for name, measure in _MEASURES.items()}
    for scale in study.scales:
        record[f"attainment_{scale:g}"] = float(attainment(row.stretches, [scale])[0]) if ran else None
    record["on_time"] = float(attainment(row.stretches, [study.slo])[0]) if ran else None
    record["end_ms"] = row.end_ms if ran else None
    for name in _COUNTERS:
        record[name] = row.counters.get(name, 0) if ran else None
    record["plans_adopted"] = row.outcomes.get("plan adopted", 0) if ran else None
    record["anomalies"] = sum(row.anomalies.values()) if ran else None
    for name in ("decision_p50_ms", "decision_p99_ms", "cpu_s"):
        record[name] = getattr(row, name) if ran else None
    return record


_COUNTERS = (
    "decisions",
    "prefill_waits",
    "moves",
    "prefix_hits",
    "transfers",
    "transfers_contended",
    "kv_waits",
    "growths",
    "pushbacks",
    "losses",
)


def csv_bytes(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as CSV with a header; None is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def check_parquet() -> None:
    """Refuse early where Parquet cannot be written.

    Raises
    ------
    InputError
        If pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise InputError('parquet: pyarrow is not installed; expected `pip install "hexsolve[parquet]"`, or CSV only')


def parquet_bytes(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([dict(record) for record in records])
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


# -- summary ----------------------------------------------------------------------------------------------------------


def summary(comparisons: Sequence[Comparison], *, contended: bool) -> list[dict[str, Any]]:
    """Per policy over places, all or contended ones: mean relative difference, the worst place, how many are lost."""
    labels = list(dict.fromkeys(label for found in comparisons for label in found.entries))
    chosen = [found for found in comparisons if found.contended or not contended]
    return [record for label in labels if (record := _over_places(label, chosen)) is not None]


def _over_places(label: str, comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    pairs = [
        (
            found,
            found.entries[label].relative_to(found.base, "req95"),
            found.entries[label].relative_to(found.base, "req99"),
        )
        for found in comparisons
        if label in found.entries
    ]
    known = [(found, req95, req99) for found, req95, req99 in pairs if req95 is not None and req99 is not None]
    if not known:
        return None
    worst, req95_worst, _ = max(known, key=lambda item: item[1].mean)
    return {
        "policy": label,
        "places": len(known),
        "req95": fmean(req95.mean for _, req95, _ in known),
        "req99": fmean(req99.mean for _, _, req99 in known),
        "worst_req95": req95_worst.mean,
        "worst_place": worst.place.label,
        "lost": sum(1 for _, req95, _ in known if req95.mean > WORSE),
    }


# -- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(study: Study, comparisons: Sequence[Comparison]) -> str:
    """Summary and one table per place, with notes on how to read them."""
    parts = [f"# SLO study {study.name}", "", _how_to_read(study), ""]
    contended = summary(comparisons, contended=True)
    if contended:
        title = f"## Places where {study.reference} has Req95 ≥ {CONTENDED:g}"
        parts += [title, "", _summary_table(contended), ""]
    parts += ["## All places", "", _summary_table(summary(comparisons, contended=False)), ""]
    for found in comparisons:
        parts += [f"## {_heading(found)}", "", _place_table(found, study), ""]
    errors = _error_lines(comparisons)
    if errors:
        parts += ["## Failed cells", "", *errors, ""]
    return "\n".join(parts)


def _how_to_read(study: Study) -> str:
    return (
        f"Seeds {study.first_seed} to {study.first_seed + study.num_seeds - 1}, paired. Req95, Req99: smallest SLO "
        "scale met by 95 %, 99 % of workflows, mean over seeds with 95 % bootstrap interval; Δ: relative to "
        f"{study.reference}, mean over pairs with interval (negative is better). On time: stretch ≤ {study.slo:g}. "
        "Waits, KV waits, moves: calls that did not start prefill at once, did not fit when first in a decode queue, "
        "were moved while waiting; contended: KV transfers slowed by another; adopted: solver plans per decision."
    )


def _heading(found: Comparison) -> str:
    place = found.place
    num = max((len(row.stretches) for entry in found.entries.values() for row in entry.rows.values()), default=0)
    setting = "" if place.setting.name == "base" else f", {place.setting.name}"
    return f"{place.workload} on {place.cluster.name}, {place.load.label}{setting}, {num} workflows"


def _place_table(found: Comparison, study: Study) -> str:
    headings = ["policy", "Req95", "Req99", "mean", "on time", "Δ Req95", "Δ Req99"]
    headings += ["waits", "KV waits", "moves", "contended", "adopted", "decision p99 ms"]
    return markdown_table(headings, [_cells(entry, found, study) for entry in found.entries.values()])


def _cells(entry: Entry, found: Comparison, study: Study) -> list[str]:
    label = f"{entry.label} ({len(entry.errors)} failed)" if entry.errors else entry.label
    if not entry.rows:
        return [label, *["–"] * 12]
    fired = entry.mechanisms
    same = entry is found.base
    return [
        label,
        *(_with_interval(entry.interval(name)) for name in ("req95", "req99")),
        f"{entry.interval('mean_stretch').mean:.2f}",
        f"{entry.on_time(study.slo):.0%}",
        *("" if same else _percent(entry.relative_to(found.base, name)) for name in ("req95", "req99")),
        *(f"{fired[name]:.0%}" for name in ("waits", "kv_waits", "moves", "contended", "adopted")),
        f"{max(row.decision_p99_ms for row in entry.rows.values()):.2g}",
    ]


def _summary_table(records: Sequence[Mapping[str, Any]]) -> str:
    headings = ["policy", "places", "Δ Req95", "Δ Req99", "worst Δ Req95", "where", f"places above +{WORSE:.0%}"]
    rows = [
        [
            record["policy"],
            str(record["places"]),
            *(f"{record[name]:+.1%}" for name in ("req95", "req99", "worst_req95")),
            record["worst_place"],
            str(record["lost"]),
        ]
        for record in records
    ]
    return markdown_table(headings, rows)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def _with_interval(found: Interval) -> str:
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _percent(found: Interval | None) -> str:
    return "–" if found is None else f"{found.mean:+.1%} [{found.low:+.1%}, {found.high:+.1%}]"


def _error_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """Each error once, with how often and where first."""
    where: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for found in comparisons:
        for entry in found.entries.values():
            for seed, error in entry.errors.items():
                counts[error] += 1
                where.setdefault(error, f"{entry.label}, {found.place.label}, seed {seed}")
    return [f"- {error} ({count} cells, first: {where[error]})" for error, count in counts.items()]


# -- JSON -------------------------------------------------------------------------------------------------------------


def document(study: Study, results: Sequence[tuple[Cell, Row]]) -> dict[str, Any]:
    """Everything as JSON data, schema `SCHEMA`: the study, rows with stretches, figures by place, summaries."""
    comparisons = compare(results, study.reference)
    flat = flat_rows(results, study)
    return {
        "schema": SCHEMA,
        "study": msgspec.to_builtins(study),
        "versions": versions(),
        "rows": [
            record | {"stretches": row.stretches, "outcomes": row.outcomes, "counters": row.counters}
            for record, (_, row) in zip(flat, results, strict=True)
        ],
        "places": [_place_record(found, study) for found in comparisons],
        "summary": summary(comparisons, contended=False),
        "summary_contended": summary(comparisons, contended=True),
    }


def _place_record(found: Comparison, study: Study) -> dict[str, Any]:
    place = found.place
    return {
        "cluster": place.cluster.name,
        "cluster_sha256": place.world.digest(),
        "workload": place.workload,
        "load": asdict(place.load) | {"label": place.load.label},
        "setting": place.setting.name,
        "reference": found.reference,
        "contended": found.contended,
        "policies": [_entry_record(entry, found, study) for entry in found.entries.values()],
    }


def _entry_record(entry: Entry, found: Comparison, study: Study) -> dict[str, Any]:
    record: dict[str, Any] = {
        "policy": entry.label,
        "seeds": list(entry.rows),
        "errors": {str(seed): error for seed, error in entry.errors.items()},
    }
    if entry.rows:
        record |= {name: vars(entry.interval(name)) for name in MEASURES}
        record["attainment"] = {f"{scale:g}": entry.on_time(scale) for scale in study.scales}
        record["on_time"] = entry.on_time(study.slo)
        record["mechanisms"] = entry.mechanisms
        relative = {name: entry.relative_to(found.base, name) for name in MEASURES}
        record["relative"] = {name: None if value is None else vars(value) for name, value in relative.items()}
    return record
