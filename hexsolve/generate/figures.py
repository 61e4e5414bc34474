"""Fitted figures of a workload, and draws from them. Knows distributions; knows nothing of DAGs or of the traces.

Draws are correlated by a two-level normal copula: the score of a value of variable v (such as the prompts of a step) is

    sqrt(within_v) * (across_v * W + sqrt(1 - across_v²) * S_v) + sqrt(1 - within_v) * noise

with W drawn once per workflow and S_v once per workflow and variable; `within` is the correlation of two values of one
variable in one workflow, `across` ties the variable to the workflow as a whole. The score's normal probability picks
the quantile.
"""

import json
import math
from functools import cache
from importlib.resources.abc import Traversable

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from hexsolve.catalog import instances_dir
from hexsolve.errors import InputError

LEVELS = (0.0, 0.01, 0.03, 0.05, *(round(0.05 * k, 2) for k in range(2, 20)), 0.97, 0.99, 1.0)
"""Probabilities of the shipped quantiles: every 5 %, and closer at the ends, where token counts have their tails."""


class Quantiles(msgspec.Struct, frozen=True):
    """An empirical distribution at `LEVELS`, interpolated linearly, with its place in the copula."""

    values: tuple[float, ...]
    within: float = 0.0
    across: float = 0.0


class Step(msgspec.Struct, frozen=True):
    """Prompt and output tokens of the calls of one step."""

    prompt: Quantiles
    output: Quantiles


class Figures(msgspec.Struct, frozen=True):
    """Everything that is known of one workload source; which keys there are is up to its template."""

    source: str
    licence: str
    steps: dict[str, Step] = {}
    tables: dict[str, Quantiles] = {}
    counts: dict[str, dict[str, int]] = {}  # name -> {value: how often it was seen}
    constants: dict[str, float] = {}


def workload_instances() -> Traversable:
    """The packaged instances/workloads."""
    return instances_dir().joinpath("workloads")


@cache
def load_figures(name: str) -> Figures:
    """The shipped figures ``figures/<name>.json``.

    Raises
    ------
    InputError
        If there are none of that name.
    """
    file = workload_instances().joinpath("figures", f"{name}.json")
    if not file.is_file():
        raise InputError(f"figures: expected a shipped source, got {name!r}")
    return msgspec.json.decode(file.read_bytes(), type=Figures)


def encode_figures(figures: Figures) -> bytes:
    """The file content of figures: one key a line, numbers as short as they are."""
    return (json.dumps(msgspec.to_builtins(figures), indent=1, ensure_ascii=False) + "\n").encode()


class Sampler:
    """Draws for one workflow. Holds that workflow's common factors and its random stream."""

    def __init__(self, figures: Figures, rng: np.random.Generator) -> None:
        self.figures = figures
        self.rng = rng
        self._common: dict[str, float] = {}

    def tokens(self, step: str, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prompt and output tokens (each >= 1) of `size` calls of a step."""
        return self.prompts(step, size), self.outputs(step, size)

    def prompts(self, step: str, size: int) -> NDArray[np.int64]:
        """Prompt tokens (>= 1) of `size` calls of a step."""
        return whole_tokens(self._draw(self.figures.steps[step].prompt, f"prompt {step}", size))

    def outputs(self, step: str, size: int) -> NDArray[np.int64]:
        """Output tokens (>= 1) of `size` calls of a step."""
        return whole_tokens(self._draw(self.figures.steps[step].output, f"output {step}", size))

    def table(self, name: str, size: int) -> NDArray[np.float64]:
        """`size` values of a table."""
        return self._draw(self.figures.tables[name], name, size)

    def count(self, name: str) -> int:
        """One value of an empirical count distribution."""
        return int(self.choice(name))

    def choice(self, name: str) -> str:
        """One key of an empirical distribution."""
        seen = self.figures.counts[name]
        position = self.rng.random() * sum(seen.values())
        for value, times in seen.items():
            position -= times
            if position < 0:
                return value
        return value

    def _draw(self, quantiles: Quantiles, variable: str, size: int) -> NDArray[np.float64]:
        within, across = quantiles.within, quantiles.across
        score = self.rng.standard_normal(size)
        if within > 0:
            shared = across * self._factor("") + math.sqrt(1 - across**2) * self._factor(variable)
            score = math.sqrt(within) * shared + math.sqrt(1 - within) * score
        drawn: NDArray[np.float64] = np.interp(ndtr(score), LEVELS, quantiles.values)
        return drawn

    def _factor(self, variable: str) -> float:
        """The standard normal factor of a variable (``""``: of the workflow), drawn when first asked for."""
        if variable not in self._common:
            self._common[variable] = float(self.rng.standard_normal())
        return self._common[variable]


def whole_tokens(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round to whole tokens, at least 1."""
    return np.maximum(np.rint(values), 1).astype(np.int64)
