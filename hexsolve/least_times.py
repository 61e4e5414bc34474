"""The least a call can cost a replica, whatever runs beside it. Knows profiles and replicas; knows no queues.

Two kinds of least time. *Latency*: how long a call takes at least, in the best batch. *Work*: how much of the replica's
own time it uses up at least; over the calls of a batch, works add up to no more than the batch takes. models/README.md
§9.2 has the proofs, the names here are theirs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from hexsolve.cluster import Replica
from hexsolve.profile import PrefillLine, PrefillTable, call_area

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PrefillFloor:
    """Bounds of T(N, A) = rest + c·A from below, over all batches of one replica; ms, `kappa_prefill` included.

    Attributes
    ----------
    replica : the replica.
    least_new : smallest number of new tokens that any other call of a batch can have.
    prefixes_known : whether a call finds one of the numbers of cached tokens it is asked about, or any up to the most.
    knots, rests : increasing numbers of new tokens N, and the least rest over all prefixes at each of them.
    rate : least rest per token over all batches of more than one call.
    """

    replica: Replica
    least_new: int
    prefixes_known: bool
    knots: Floats
    rests: Floats
    rate: float

    @property
    def per_area(self) -> float:
        """c, ms per unit of attention area."""
        return self.replica.profile.kappa_prefill * self.replica.profile.prefill.c_ms_per_area

    def is_alone(self, new_tokens: int) -> bool:
        """Whether no other call fits into the batch."""
        return new_tokens + self.least_new > self.replica.max_batch_tokens

    def times(self, prompt: int, prefixes: Iterable[int]) -> tuple[float, float]:
        """(latency, work) in ms of a call that may find any of `prefixes` tokens cached."""
        fewest = prompt - max(prefixes)
        area = call_area(fewest, prompt - fewest)
        is_alone, profile = self.is_alone(fewest), self.replica.profile
        if is_alone and (self.prefixes_known or isinstance(profile.prefill, PrefillLine)):
            latency = min(profile.prefill_ms(prompt - p, call_area(prompt - p, p)) for p in prefixes)
        else:
            later = self.rests[self.knots > fewest].min(initial=np.inf)
            least_rest = min(float(np.interp(fewest, self.knots, self.rests)), float(later))
            latency = max(0.0, least_rest) + self.per_area * area
        return latency, latency if is_alone else min(latency, self.rate * fewest + self.per_area * area)


def prefill_floor(replica: Replica, least_new: int, longest_prompt: int, *, prefixes_known: bool) -> PrefillFloor:
    """Bounds for a workload whose calls have at least `least_new` new tokens and at most `longest_prompt` in all."""
    profile, most = replica.profile, replica.max_batch_tokens
    knots, rests = _rests(profile.prefill, most, longest_prompt)
    rests = profile.kappa_prefill * rests
    in_batch = knots <= most
    rate = max(0.0, float((rests[in_batch] / knots[in_batch]).min()))
    return PrefillFloor(replica, least_new, prefixes_known, knots, rests, rate)


def _rests(prefill: PrefillLine | PrefillTable, most: int, longest: int) -> tuple[Floats, Floats]:
    """Numbers of new tokens, `most` among them, and the least of T - c·A over all prefixes at each; at least linear in
    between."""
    ends = [1.0, float(most), float(max(most, longest))]
    if isinstance(prefill, PrefillLine):
        bend = prefill.w_ms / prefill.b_ms_per_token if prefill.b_ms_per_token > 0 else 1.0
        knots = np.unique([*ends, min(max(bend, 1.0), ends[-1])])
        return knots, prefill.a_ms + np.maximum(prefill.w_ms, prefill.b_ms_per_token * knots)
    new, prefix, ms = (np.array(part) for part in (prefill.new_tokens, prefill.prefix_tokens, prefill.latency_ms))
    rest = ms - prefill.c_ms_per_area * call_area(new[:, None], prefix)
    knots = np.unique([*ends, *new[(new > 1.0) & (new < ends[-1])]])
    columns = np.array([0.0, *prefix[(prefix > 0.0) & (prefix < longest)], float(longest)])
    # Bilinear between the knots: on every cell least at a corner. Below the first knot it is constant in N.
    return knots, np.array([min(_bilinear(new, prefix, rest, max(n, new[0]), p) for p in columns) for n in knots])


def _bilinear(rows: Floats, columns: Floats, values: Floats, row: float, column: float) -> float:
    """Bilinear between the knots, going on linearly outside, as in `hexsolve.profile`."""
    i = int(np.clip(np.searchsorted(rows, row, side="right") - 1, 0, len(rows) - 2))
    j = int(np.clip(np.searchsorted(columns, column, side="right") - 1, 0, len(columns) - 2))
    u = (row - rows[i]) / (rows[i + 1] - rows[i])
    v = (column - columns[j]) / (columns[j + 1] - columns[j])
    left, right = (values[i, k] + u * (values[i + 1, k] - values[i, k]) for k in (j, j + 1))
    return float(left + v * (right - left))


@dataclass(frozen=True)
class DecodeFloor:
    """Bounds of decode steps from below, over all batches of one replica; ms, `kappa_decode` included.

    Attributes
    ----------
    elapsed : f8[longest + 1]; elapsed[m] is the time of the steps at contexts 0..m-1, each in the best batch.
    per_step, per_token : every step of a batch takes at least the sum of per_step + per_token · context of its calls.
    """

    elapsed: Floats
    per_step: float
    per_token: float

    def times(self, prompt: int, output: int) -> tuple[float, float]:
        """(latency, work) in ms of `output` steps from a context of `prompt` tokens on."""
        latency = float(self.elapsed[prompt + output] - self.elapsed[prompt])
        contexts = prompt * output + output * (output - 1) // 2
        return latency, min(latency, max(0.0, self.per_step * output + self.per_token * contexts))


def decode_floor(replica: Replica, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> DecodeFloor:
    """Bounds for a workload of calls with these prompt and output tokens (int64[N], N >= 1)."""
    longest = int((prompts + outputs).max())
    most = min(replica.max_running, len(prompts), max(1, replica.kv_capacity_tokens // int((prompts + 1).min())))
    grid = replica.profile.decode_grid()
    contexts = np.arange(longest + 1, dtype=np.float64)
    # The others of a batch of B have a token of context each at least, so its mean is at least (context + B - 1) / B.
    steps = np.full(longest + 1, np.inf)
    for batch in range(1, most + 1):
        means, values = _least_steps(grid, batch, longest + 1.0)
        steps = np.minimum(steps, np.interp((contexts + batch - 1) / batch, means, values))
    elapsed = np.concatenate([[0.0], np.cumsum(np.maximum(steps, replica.profile.decode_floor_ms))])
    per_step, per_token = _shares(replica, most, prompts, outputs)
    return DecodeFloor(elapsed, per_step, per_token)


def _least_steps(grid: tuple[Floats, Floats, Floats], batch: int, longest: float) -> tuple[Floats, Floats]:
    """Mean contexts from 0 to `longest` and the least step time from there on; straight in between, no floor."""
    means = np.unique([0.0, *grid[1][grid[1] < longest], longest])
    steps = np.array([_bilinear(*grid, float(batch), mean) for mean in means])
    return means, np.minimum.accumulate(steps[::-1])[::-1]


def _shares(replica: Replica, most: int, prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> tuple[float, float]:
    """The per_step and per_token that give the workload the most work, among those valid for every batch.

    step(B, m) >= B (per_step + per_token · m) for every batch B and mean context m of a call with B·m within the KV
    capacity. For one B the step is straight in m between knots, so that rows at the knots say it; a linear programme.
    """
    grid = replica.profile.decode_grid()
    first, last = float(prompts.min()), float((prompts + outputs).max())
    rows, limits = [], []
    for batch in range(1, most + 1):
        highest = max(first, min(last, replica.kv_capacity_tokens / batch))
        knots = np.unique([first, *grid[1][(grid[1] > first) & (grid[1] < highest)], highest])
        for mean in knots:
            rows.append((1.0, mean / last))
            limits.append(_bilinear(*grid, float(batch), mean) / batch)
    contexts = float((prompts * outputs + outputs * (outputs - 1) // 2).sum())
    worth = np.array([float(outputs.sum()), contexts / last])
    least = [(-1.0, -first / last), (-1.0, -1.0)]  # no call works less than nothing
    found = linprog(
        -worth / worth.sum(),
        A_ub=np.array([*rows, *least]),
        b_ub=np.array([*limits, 0.0, 0.0]),
        bounds=[(None, None), (0.0, None)],
    )
    if not found.success:
        return 0.0, 0.0  # no share is always valid
    per_step, per_token = np.asarray(found.x, dtype=np.float64).tolist()
    slack = (np.array(rows) @ [per_step, per_token] - np.array(limits)).max()
    return per_step - max(0.0, float(slack)), per_token / last
