"""The files under instances/workloads: fitted figures, small sample workloads and their manifest. Writes them all."""

import hashlib
import json
from pathlib import Path

from hexsolve.generate.figures import Figures, encode_figures, load_figures
from hexsolve.generate.fit import TRACES, fit
from hexsolve.generate.workloads import NAMES, generate
from hexsolve.io import write_workload

SEED = 2026
SAMPLE_WORKFLOWS = {"coding-fanout": 6, "lats": 4, "mixed": 9}
"""Workflows per shipped sample; 20 where none is given. Samples are for looking and for examples; studies generate."""

_PUBLISHED = ("published means of Autellix, arXiv 2502.13965", "facts; no data copied")


def write_instances(directory: Path, traces: Path) -> None:
    """Refit the figures to the traces, then write figures, samples and manifest.json into `directory`.

    `directory` has to be the project's instances/workloads: the samples are generated from the figures found there.
    """
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    for name in TRACES:
        (directory / figures_file(name)).write_bytes(encode_figures(fit(name, traces)))
    load_figures.cache_clear()
    for name in NAMES:
        write_workload(generate(name, sample_size(name), SEED), directory / f"{name}.jsonl")
    manifest = json.dumps(build_manifest(directory), indent=1) + "\n"
    (directory / "manifest.json").write_text(manifest, encoding="utf-8")


def sample_size(name: str) -> int:
    """Workflows in the shipped sample of this name."""
    return SAMPLE_WORKFLOWS.get(name, 20)


def figures_file(name: str) -> str:
    """Path of the figures of this name inside instances/workloads."""
    return f"figures/{name}.json"


def build_manifest(directory: Path) -> dict[str, dict[str, object]]:
    """One entry per file in `directory`: {seed, generator, digest (SHA-256 of the bytes), source, licence}."""
    entries: dict[str, dict[str, object]] = {}
    for name in TRACES:
        figures = load_figures(name)
        generator = f"hexsolve.generate.fit.fit({name!r}, traces)"
        entries[figures_file(name)] = _entry(directory / figures_file(name), None, generator, figures)
    for name in NAMES:
        generator = f"hexsolve.generate.generate({name!r}, {sample_size(name)}, {SEED})"
        figures = load_figures(name) if name in TRACES else Figures(*_PUBLISHED)
        entries[f"{name}.jsonl"] = _entry(directory / f"{name}.jsonl", SEED, generator, figures)
    return entries


def _entry(file: Path, seed: int | None, generator: str, figures: Figures) -> dict[str, object]:
    return {
        "seed": seed,
        "generator": generator,
        "digest": hashlib.sha256(file.read_bytes()).hexdigest(),
        "source": figures.source,
        "licence": figures.licence,
    }
