"""Fit profiles to aiconfigurator latency tables. Knows the two csv layouts; knows no server and no cluster.

The tables are what the PyPI package aiconfigurator-core (Apache-2.0) computes for one LLM, TP degree, GPU system and
engine: one row per (batch, new_tokens, cached_prefix) of prefill and per (batch, context) of decode, all of one batch
alike. Every fit is a non-negative least squares of *relative* errors over the rows marked `in_range`.
"""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hexsolve.errors import InputError
from hexsolve.profile import DecodeLine, DecodeTable, DecodeTime, PrefillLine, Profile

Floats = NDArray[np.float64]
Key = tuple[str, str, int, str]
"""(llm, gpu, tp, engine)."""

BATCH_KNOTS = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
CONTEXT_KNOTS = (0.0, 2048.0, 8192.0, 32768.0, 65536.0)
LINE_MAPE = 0.06
"""A decode line with a larger mean relative error than this gives way to a table on the knots above."""

SIGNIFICANT_DIGITS = 5

PREFILL_COLUMNS = ("batch", "new_tokens", "cached_prefix", "latency_ms", "in_range")
DECODE_COLUMNS = ("batch", "context", "latency_ms", "in_range")
KEY_COLUMNS = ("model", "system", "tp", "backend", "backend_version")


@dataclass(frozen=True)
class Fit:
    """Fitted times of one (LLM, GPU, TP, engine) with their mean relative errors over the rows in range."""

    llm: str
    gpu: str
    tp: int
    engine: str
    engine_version: str
    prefill: PrefillLine
    decode: DecodeTime
    prefill_mape: float
    decode_mape: float


def fit_profiles(prefill_csv: Path, decode_csv: Path) -> list[Fit]:
    """Fit every (LLM, GPU, TP, engine) that occurs in both files, sorted by these four.

    Raises
    ------
    InputError
        If a file lacks a column, holds a value that is no number, or the files have nothing in common.
    """
    prefill_rows, versions = _read(prefill_csv, PREFILL_COLUMNS)
    decode_rows, _ = _read(decode_csv, DECODE_COLUMNS)
    keys = sorted(prefill_rows.keys() & decode_rows.keys())
    if not keys:
        raise InputError(f"{prefill_csv} and {decode_csv}: expected a common (model, system, tp, backend), got none")
    return [_fit(key, versions[key], prefill_rows[key], decode_rows[key]) for key in keys]


def _fit(key: Key, version: str, prefill_rows: Floats, decode_rows: Floats) -> Fit:
    batch, new, prefix, prefill_ms, _ = prefill_rows[prefill_rows[:, -1] == 1].T
    tokens, area = batch * new, batch * new * (new + 2 * prefix)
    prefill = fit_prefill_line(tokens, area, prefill_ms)
    prefill_mape = _mape((prefill.ms(n, a) for n, a in zip(tokens, area, strict=True)), prefill_ms)
    batch, context, step_ms, _ = decode_rows[decode_rows[:, -1] == 1].T
    decode: DecodeTime = fit_decode_line(batch, context, step_ms)
    if _decode_mape(decode, batch, context, step_ms) > LINE_MAPE:
        decode = fit_decode_table(batch, context, step_ms)
    return Fit(*key, version, prefill, decode, prefill_mape, _decode_mape(decode, batch, context, step_ms))


def fit_prefill_line(new_tokens: Floats, attention_area: Floats, latency_ms: Floats) -> PrefillLine:
    """Best a + max(w, b·N) + c·A: for every possible end of the flat part the rest is linear, so try them all."""
    candidates = [_prefill_line_flat_to(end, new_tokens, attention_area, latency_ms) for end in (0, *set(new_tokens))]
    return min(candidates, key=lambda line: _prefill_error(line, new_tokens, attention_area, latency_ms))


def _prefill_line_flat_to(end: float, tokens: Floats, area: Floats, latency_ms: Floats) -> PrefillLine:
    flat = tokens <= end
    columns = [np.ones_like(tokens), np.where(flat, 0.0, tokens), area, flat.astype(np.float64)]
    return PrefillLine(*_relative_nnls(np.column_stack(columns), latency_ms))


def _prefill_error(line: PrefillLine, tokens: Floats, area: Floats, latency_ms: Floats) -> float:
    model = line.a_ms + np.maximum(line.w_ms, line.b_ms_per_token * tokens) + line.c_ms_per_area * area
    return float(np.sum((model / latency_ms - 1) ** 2))


def fit_decode_line(batch: Floats, context: Floats, step_ms: Floats) -> DecodeLine:
    """Best a + b·B + c·C with C = B·`context`."""
    return DecodeLine(*_relative_nnls(np.column_stack([np.ones_like(batch), batch, batch * context]), step_ms))


def fit_decode_table(batch: Floats, context: Floats, step_ms: Floats) -> DecodeTable:
    """Best table on the knots above that never falls and whose context slope never falls with the batch.

    The table is a non-negative combination of products of ramps (0 before one knot, 1 from the next on), which is
    what keeps it monotone, also where it is extrapolated.
    """
    ramps_b, ramps_m = _ramps(batch, BATCH_KNOTS), _ramps(context, CONTEXT_KNOTS)
    design = np.einsum("ri,rj->rij", ramps_b, ramps_m).reshape(len(batch), -1)
    weights = np.array(_relative_nnls(design, step_ms)).reshape(len(BATCH_KNOTS), len(CONTEXT_KNOTS))
    table = np.cumsum(np.cumsum(weights, axis=0), axis=1)
    return DecodeTable(BATCH_KNOTS, CONTEXT_KNOTS, tuple(tuple(_rounded(row)) for row in table.tolist()))


def _ramps(x: Floats, knots: tuple[float, ...]) -> Floats:
    """f8[len(x), len(knots)]: 1, then one ramp per gap between knots; the last one goes on beyond its knot."""
    rise = [(x - low) / (high - low) for low, high in pairwise(knots)]
    return np.column_stack([np.ones_like(x), *(np.clip(r, 0, 1) for r in rise[:-1]), np.maximum(rise[-1], 0)])


def _relative_nnls(design: Floats, target: Floats) -> list[float]:
    scale = np.abs(design).max(axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(design / scale / target[:, None], np.ones_like(target))
    return _rounded((solution / scale).tolist())


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values]


def _decode_mape(decode: DecodeTime, batch: Floats, context: Floats, step_ms: Floats) -> float:
    bare = Profile("", "", 1, "", PrefillLine(1.0, 0.0, 0.0), decode, 1, kappa_prefill=1.0, kappa_decode=1.0)
    model_ms = (bare.decode_step_ms(int(b), b * m) for b, m in zip(batch, context, strict=True))
    return _mape(model_ms, step_ms)


def _mape(model_ms: Iterable[float], true_ms: Floats) -> float:
    """Mean of |model - true| / true."""
    return float(np.mean(np.abs(np.fromiter(model_ms, np.float64) / true_ms - 1)))


def _read(path: Path, columns: tuple[str, ...]) -> tuple[dict[Key, Floats], dict[Key, str]]:
    """Rows by key, f8[row, column], and the engine version of each key (the last row's)."""
    rows: dict[Key, list[list[float]]] = {}
    versions: dict[Key, str] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in KEY_COLUMNS + columns if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: expected columns {missing}, got {reader.fieldnames}")
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            key = (row["model"], gpu_name(row["system"]), int(_number(row, "tp", where)), row["backend"])
            rows.setdefault(key, []).append([_number(row, name, where) for name in columns])
            versions[key] = row["backend_version"]
    return {key: np.array(values) for key, values in rows.items()}, versions


def _number(row: dict[str, str], name: str, where: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {name} = {row[name]!r}: expected a number >= 0")
    return value


def gpu_name(system: str) -> str:
    """Our name of an aiconfigurator system: ``"h100_sxm"`` is ``"H100"``."""
    return system.split("_")[0].upper()


def write_profiles(fits: Sequence[Fit], folder: Path, source: str) -> list[Path]:
    """Write one profile file (TOML) per LLM into `folder`; `source` says where the latencies came from.

    The files can be named in a cluster file under `profile_files`.
    """
    paths = []
    for llm in sorted({fit.llm for fit in fits}):
        path = folder / f"{llm}.toml"
        entries = [_toml_entry(fit) for fit in fits if fit.llm == llm]
        head = f"# Fitted by hexsolve.profile_fit. Source: {source}.\nllm = {json.dumps(llm)}\n"
        path.write_text("\n".join([head, *entries]), encoding="utf-8")
        paths.append(path)
    return paths


def _toml_entry(fit: Fit) -> str:
    lines = [
        "[[profiles]]",
        *(f"{name} = {json.dumps(getattr(fit, name))}" for name in ("gpu", "tp", "engine", "engine_version")),
        f"prefill_mape = {fit.prefill_mape:.3f}",
        f"decode_mape = {fit.decode_mape:.3f}",
        f"prefill = {_toml_inline(fit.prefill)}",
    ]
    if isinstance(fit.decode, DecodeLine):
        return "\n".join([*lines, f"decode = {_toml_inline(fit.decode)}", ""])
    table = fit.decode
    steps = ",\n".join(f"  {json.dumps(row)}" for row in table.step_ms)
    knots = [f"{name} = {json.dumps(getattr(table, name))}" for name in ("batch", "context_tokens")]
    return "\n".join([*lines, "[profiles.decode_table]", *knots, f"step_ms = [\n{steps},\n]", ""])


def _toml_inline(line: PrefillLine | DecodeLine) -> str:
    pairs = ", ".join(f"{name} = {value!r}" for name, value in asdict(line).items())
    return f"{{ {pairs} }}"
