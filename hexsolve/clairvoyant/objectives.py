"""What makes one set of stretches better than another. Knows stretches; knows no schedule.

Each objective has a value, which is what is reported, and a guide, which is what a search goes by: percentiles and
counts stay the same over most moves, so the guide adds how the workflows below them are doing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from hexsolve.errors import InputError
from hexsolve.tables import Floats

_EXPONENT = 12.0  # of the power mean that leans on the largest stretches among those that count
_SHARE = 0.5  # of the guide that is this power mean


@dataclass(frozen=True)
class Objective:
    """Something to be small.

    Attributes
    ----------
    name : as reports have it.
    counted : share of the workflows that matter, in (0, 1]; the others may be as late as it takes.
    focus : how much the largest of those are to blame, as a power of the stretch.
    value : f8[W] stretches -> the figure. guide : the same -> what a search goes by.
    """

    name: str
    counted: float
    focus: float
    value: Callable[[Floats], float]
    guide: Callable[[Floats], float]

    def num_counted(self, num_workflows: int) -> int:
        """How many workflows matter; the others can be sacrificed."""
        return max(1, ceil(self.counted * num_workflows - 1e-9))


def _required(name: str, share: float) -> Objective:
    def kept(stretch: Floats) -> Floats:
        counted: Floats = np.sort(stretch)[: max(1, ceil(share * len(stretch) - 1e-9))]
        return counted

    def guide(stretch: Floats) -> float:
        most = kept(stretch)
        level = float(most[-1])
        mean = float(np.mean((most / level) ** _EXPONENT))
        return level * (1.0 - _SHARE + _SHARE * math.pow(mean, 1.0 / _EXPONENT))

    return Objective(name, share, _EXPONENT, lambda stretch: float(kept(stretch)[-1]), guide)


def _late(alpha: float) -> Objective:
    def value(stretch: Floats) -> float:
        return float(np.count_nonzero(stretch > alpha))

    def guide(stretch: Floats) -> float:
        excess = np.sort(np.maximum(0.0, stretch / alpha - 1.0))
        excess = excess[excess > 0.0]
        # The least late ones are next to be rescued: each counts for less the more there are before it.
        return value(stretch) + float(np.sum(np.minimum(excess, 1.0) * 0.5 ** np.arange(1, len(excess) + 1)))

    return Objective(f"late:{alpha:g}", 1.0, 2.0, value, guide)


def _mean(stretch: Floats) -> float:
    return float(np.mean(stretch))


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        _required("req95", 0.95),
        _required("req99", 0.99),
        _required("max_stretch", 1.0),
        Objective("mean_stretch", 1.0, 1.0, _mean, _mean),
    )
}
"""Objectives without a parameter, by name."""


def parse_objective(text: str) -> Objective:
    """``req95``, ``req99``, ``max_stretch``, ``mean_stretch``, or ``late:ALPHA`` (how many have a stretch above ALPHA).

    Raises
    ------
    InputError
        If it is none of these.
    """
    if text in OBJECTIVES:
        return OBJECTIVES[text]
    name, _, argument = text.partition(":")
    try:
        alpha = float(argument) if name == "late" else -1.0
    except ValueError:
        alpha = -1.0
    if not 0.0 < alpha < inf:
        raise InputError(f"objective {text!r}: expected {', '.join(OBJECTIVES)} or late:ALPHA with ALPHA > 0")
    return _late(alpha)
