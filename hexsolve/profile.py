"""How long prefill and decode take for one (LLM, GPU, TP, engine). Knows milliseconds and tokens; knows no replicas.

A kernel-sum profile is not a server: `kappa_prefill`, `kappa_decode` and `ttft_overhead_ms` carry what is missing
(host, scheduler, sampling, HTTP), and every public method of `Profile` already includes the two factors.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hexsolve.errors import InputError

Number = TypeVar("Number", int, float, NDArray[np.float64])
Row = tuple[float, ...]
Grid = tuple[Row, Row, tuple[Row, ...]]
"""Row knots, column knots, and values[row][column]."""


@dataclass(frozen=True)
class PrefillLine:
    """Prefill time as a + max(w, b·N) + c·A: `w_ms` is the floor that reading the weights puts under small batches.

    Parameters
    ----------
    a_ms, b_ms_per_token, c_ms_per_area, w_ms : float
        Coefficients, all >= 0 and not all zero.

    Raises
    ------
    InputError
        On a negative or non-finite coefficient, or if every coefficient is zero.
    """

    a_ms: float
    b_ms_per_token: float
    c_ms_per_area: float
    w_ms: float = 0.0

    def __post_init__(self) -> None:
        values = (self.a_ms, self.b_ms_per_token, self.c_ms_per_area, self.w_ms)
        _check_row(values, "prefill line (a_ms, b_ms_per_token, c_ms_per_area, w_ms)")
        if not any(values):
            raise InputError("prefill line: expected a coefficient > 0, got only zeros")

    def ms(self, new_tokens: float, attention_area: float) -> float:
        """Time of a batch with `new_tokens` N and `attention_area` A."""
        return self.a_ms + max(self.w_ms, self.b_ms_per_token * new_tokens) + self.c_ms_per_area * attention_area


@dataclass(frozen=True)
class PrefillTable:
    """Prefill time interpolated from a table of single calls, new tokens n by cached prefix tokens p.

    A batch (N, A) is looked up as one call with N new tokens and the prefix p = max(0, (A/N - N)/2) that gives the
    same area. The table is split into c·A, which stays exact between knots and for batches with A < N², and a rest
    that is interpolated linearly. c is the steepest slope that leaves the rest non-decreasing along both axes, so that
    the time of a single call, and of a batch of calls without prefix, never falls when tokens are added.

    Parameters
    ----------
    new_tokens, prefix_tokens : tuple of float
        Knots, strictly increasing, at least two each, new_tokens[0] > 0 and prefix_tokens[0] = 0.
    latency_ms : tuple of tuple of float
        [new_tokens][prefix_tokens], > 0, non-decreasing along both axes.

    Raises
    ------
    InputError
        If a knot or value breaks these rules.
    """

    new_tokens: Row
    prefix_tokens: Row
    latency_ms: tuple[Row, ...]

    def __post_init__(self) -> None:
        grid = (self.new_tokens, self.prefix_tokens, self.latency_ms)
        _check_grid(grid, "prefill table", "new_tokens", "prefix_tokens", "latency_ms")
        if self.new_tokens[0] <= 0 or self.prefix_tokens[0] != 0:
            raise InputError(
                "prefill table: expected new_tokens[0] > 0 and prefix_tokens[0] = 0, "
                f"got {self.new_tokens[0]} and {self.prefix_tokens[0]}"
            )

    @cached_property
    def c_ms_per_area(self) -> float:
        """Time per unit of attention area: least dT/dA between neighbouring knots along either axis."""
        new, prefix, ms = (np.array(part) for part in (self.new_tokens, self.prefix_tokens, self.latency_ms))
        area = call_area(new[:, None], prefix)
        return min(float((np.diff(ms, axis=axis) / np.diff(area, axis=axis)).min()) for axis in (0, 1))

    @cached_property
    def _rest(self) -> Grid:
        c = self.c_ms_per_area
        rows = tuple(
            tuple(t - c * call_area(n, p) for t, p in zip(row, self.prefix_tokens, strict=True))
            for n, row in zip(self.new_tokens, self.latency_ms, strict=True)
        )
        return self.new_tokens, self.prefix_tokens, rows

    def ms(self, new_tokens: float, attention_area: float) -> float:
        """Time of a batch with `new_tokens` N and `attention_area` A; constant below the first knot."""
        prefix = max(0.0, (attention_area / new_tokens - new_tokens) / 2)
        floored = max(new_tokens, self.new_tokens[0])
        rest = _line_along_columns(self._rest, floored, prefix)[0]
        return max(self.latency_ms[0][0], rest + self.c_ms_per_area * attention_area)


@dataclass(frozen=True)
class DecodeLine:
    """Decode step time as a + b·B + c·C with B running calls and C their context tokens.

    Raises
    ------
    InputError
        On a negative or non-finite coefficient, or if a_ms + b_ms_per_call is zero.
    """

    a_ms: float
    b_ms_per_call: float
    c_ms_per_token: float

    def __post_init__(self) -> None:
        values = (self.a_ms, self.b_ms_per_call, self.c_ms_per_token)
        _check_row(values, "decode line (a_ms, b_ms_per_call, c_ms_per_token)")
        if self.a_ms + self.b_ms_per_call <= 0:
            raise InputError("decode line: expected a_ms + b_ms_per_call > 0, got 0")

    @property
    def grid(self) -> Grid:
        """Four points that say it all: a + b·B + c·B·m is bilinear in (B, m)."""
        batches, contexts = (1.0, 257.0), (0.0, 65536.0)
        rows = tuple(
            tuple(self.a_ms + self.b_ms_per_call * b + self.c_ms_per_token * b * m for m in contexts) for b in batches
        )
        return batches, contexts, rows


@dataclass(frozen=True)
class DecodeTable:
    """Decode step time interpolated from a table, running calls B by mean context tokens m = C/B.

    Outside the knots it goes on linearly; it never falls there either if the first context knot is 0 and the slope
    along the context never falls with the batch (`hexsolve.profile_fit` makes such tables).

    Parameters
    ----------
    batch : tuple of float
        Knots, strictly increasing from >= 1, at least two.
    context_tokens : tuple of float
        Mean-context knots, strictly increasing from >= 0, at least two.
    step_ms : tuple of tuple of float
        [batch][context], > 0, non-decreasing along both axes; > 0 also where extrapolated to batch 1, context 0.

    Raises
    ------
    InputError
        If a knot or value breaks these rules.
    """

    batch: Row
    context_tokens: Row
    step_ms: tuple[Row, ...]

    def __post_init__(self) -> None:
        _check_grid(self.grid, "decode table", "batch", "context_tokens", "step_ms")
        if self.batch[0] < 1:
            raise InputError(f"decode table: batch[0] = {self.batch[0]}: expected >= 1")
        alone_ms = _line_along_columns(self.grid, 1.0, 0.0)[0]
        if alone_ms <= 0:
            raise InputError(f"decode table: expected > 0 ms at batch 1, context 0, got {alone_ms:g}; add knots there")

    @property
    def grid(self) -> Grid:
        """The table itself."""
        return self.batch, self.context_tokens, self.step_ms


PrefillTime = PrefillLine | PrefillTable
DecodeTime = DecodeLine | DecodeTable


@dataclass(frozen=True)
class Profile:
    """Speed of one replica type for one LLM.

    Parameters
    ----------
    llm, gpu, engine : str
        Names, such as ``"llama3.1-70b"``, ``"H100"``, ``"vllm"``.
    tp : int
        Tensor-parallel degree, >= 1.
    prefill, decode : PrefillTime, DecodeTime
        Kernel-sum times, without the factors below.
    kv_bytes_per_token : int
        Bytes of KV cache that move per token, >= 1.
    kappa_prefill, kappa_decode : float
        Server time over kernel time, > 0 (defaults: measured servers against kernel sums, DESIGN §5).
    ttft_overhead_ms : float
        Fixed time on the way to the first token, >= 0; `Cluster.transfer_ms` adds it once per call.

    Raises
    ------
    InputError
        If a field lies outside its range.
    """

    llm: str
    gpu: str
    tp: int
    engine: str
    prefill: PrefillTime
    decode: DecodeTime
    kv_bytes_per_token: int
    kappa_prefill: float = 1.15
    kappa_decode: float = 1.05
    ttft_overhead_ms: float = 30.0

    def __post_init__(self) -> None:
        where = f"profile {self.label}"
        for name, count in (("tp", self.tp), ("kv_bytes_per_token", self.kv_bytes_per_token)):
            if type(count) is not int or count < 1:
                raise InputError(f"{where}: {name}: expected an int >= 1, got {count!r}")
        for name, factor in (("kappa_prefill", self.kappa_prefill), ("kappa_decode", self.kappa_decode)):
            if not (math.isfinite(factor) and factor > 0):
                raise InputError(f"{where}: {name}: expected a finite number > 0, got {factor!r}")
        if not (math.isfinite(self.ttft_overhead_ms) and self.ttft_overhead_ms >= 0):
            raise InputError(f"{where}: ttft_overhead_ms: expected a finite number >= 0, got {self.ttft_overhead_ms!r}")

    @property
    def label(self) -> str:
        """Short name for messages: llm/gpu/tp/engine."""
        return f"{self.llm}/{self.gpu}/tp{self.tp}/{self.engine}"

    def prefill_ms(self, new_tokens: int, attention_area: int) -> float:
        """Time of one prefill batch, `kappa_prefill` included.

        Parameters
        ----------
        new_tokens : int
            N >= 1, tokens to compute, summed over the batch.
        attention_area : int
            A = sum of (n+p)² - p² over the calls (see `call_area`), n new and p cached prefix tokens.
        """
        return self.kappa_prefill * self.prefill.ms(new_tokens, attention_area)

    def decode_step_ms(self, batch: int, context_tokens: float) -> float:
        """Time of one decode step, `kappa_decode` included, with `batch` >= 1 calls and `context_tokens` in total."""
        return self.decode_segment(batch, context_tokens / batch)[0]

    def decode_segment(self, batch: int, mean_context: float) -> tuple[float, float, float]:
        """How step times go on while the batch stays the same and each step adds one token to every context.

        Returns
        -------
        (step0_ms, slope_ms_per_step, steps_in_segment)
            Step i takes step0 + slope·i for every integer 0 <= i < steps_in_segment (> 0; inf beyond the last knot).
        """
        value, slope, edge = _line_along_columns(self._decode_grid, batch, mean_context)
        return _clamp_segment(value, slope, edge - mean_context, self.decode_floor_ms)

    @cached_property
    def decode_floor_ms(self) -> float:
        """Step time of one call without context: no step is shorter."""
        return _line_along_columns(self._decode_grid, 1.0, 0.0)[0]

    def decode_grid(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Batch knots f8[nb], mean-context knots f8[nc], step_ms f8[nb, nc] with `kappa_decode`; read-only.

        `decode_step_ms` is the bilinear interpolation of this grid, linear outside it, at least `decode_floor_ms`.
        """
        return self._decode_arrays

    def scaled(self, speed: float) -> "Profile":
        """The same replica `speed` > 0 times as fast in prefill and decode; the fixed overhead is unchanged."""
        if not (math.isfinite(speed) and speed > 0):
            raise InputError(f"speed: expected a finite number > 0, got {speed!r}")
        return replace(self, kappa_prefill=self.kappa_prefill / speed, kappa_decode=self.kappa_decode / speed)

    @cached_property
    def _decode_grid(self) -> Grid:
        batches, contexts, rows = self.decode.grid
        return batches, contexts, tuple(tuple(self.kappa_decode * step for step in row) for row in rows)

    @cached_property
    def _decode_arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        batches, contexts, step_ms = (np.array(part, dtype=np.float64) for part in self._decode_grid)
        for array in (batches, contexts, step_ms):
            array.flags.writeable = False
        return batches, contexts, step_ms


def call_area(new_tokens: Number, prefix_tokens: Number) -> Number:
    """Attention area of one call: (n+p)² - p², written n·(n+2p); numbers or arrays."""
    return new_tokens * (new_tokens + 2 * prefix_tokens)


def _cell(knots: Row, x: float) -> int:
    """Index of the cell that holds x, the first or last one for x outside."""
    return min(max(bisect_right(knots, x) - 1, 0), len(knots) - 2)


def _line_along_columns(grid: Grid, row_at: float, column_at: float) -> tuple[float, float, float]:
    """Bilinear value at a point, its slope per column and the column where that slope ends (inf in the last cell)."""
    rows, columns, values = grid
    i, j = _cell(rows, row_at), _cell(columns, column_at)
    weight = (row_at - rows[i]) / (rows[i + 1] - rows[i])
    left = values[i][j] + weight * (values[i + 1][j] - values[i][j])
    right = values[i][j + 1] + weight * (values[i + 1][j + 1] - values[i][j + 1])
    slope = (right - left) / (columns[j + 1] - columns[j])
    edge = columns[j + 1] if j + 2 < len(columns) else math.inf
    return left + slope * (column_at - columns[j]), slope, edge


def _clamp_segment(step_ms: float, slope: float, steps: float, floor_ms: float) -> tuple[float, float, float]:
    """Keep a segment at or above the floor: cut it where its line crosses the floor."""
    if step_ms >= floor_ms:
        return step_ms, slope, steps if slope >= 0 else min(steps, max(1.0, (step_ms - floor_ms) / -slope))
    return floor_ms, 0.0, steps if slope <= 0 else min(steps, (floor_ms - step_ms) / slope)


def _check_row(values: Sequence[float], where: str, lowest: float = 0.0) -> None:
    for i, value in enumerate(values):
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= lowest):
            raise InputError(f"{where}[{i}] = {value!r}: expected a finite number >= {lowest:g}")


def _check_knots(knots: Row, where: str) -> None:
    if len(knots) < 2:
        raise InputError(f"{where}: expected at least 2 knots, got {len(knots)}")
    _check_row(knots, where)
    for i, (low, high) in enumerate(pairwise(knots)):
        if high <= low:
            raise InputError(f"{where}[{i + 1}] = {high!r}: expected more than {where}[{i}] = {low!r}")


def _check_grid(grid: Grid, what: str, row_name: str, column_name: str, value_name: str) -> None:
    rows, columns, values = grid
    _check_knots(rows, f"{what}: {row_name}")
    _check_knots(columns, f"{what}: {column_name}")
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise InputError(f"{what}: {value_name}: expected {len(rows)} rows of {len(columns)} values")
    for i, row in enumerate(values):
        _check_row(row, f"{what}: {value_name}[{i}]", lowest=math.ulp(0.0))
        below = values[i - 1] if i else row
        for j, value in enumerate(row):
            if value < below[j] or (j and value < row[j - 1]):
                where = f"{what}: {value_name}[{i}][{j}]"
                raise InputError(f"{where} = {value!r}: expected no less than its neighbours before")
