"""What every formulation offers: a native model and the way into and out of it. Knows no solver."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hexsolve_models.decision import Decision
from hexsolve_models.problem import Problem

Model = TypeVar("Model")


class NumberRangeError(ValueError):
    """The numbers of this problem are too large for exact solver arithmetic; the message says which."""


@dataclass(frozen=True, eq=False)
class Formulation(Generic[Model]):
    """A problem as a native model.

    decode
        Values of all variables, by native index -> the decision they stand for.
    encode
        A feasible decision -> a value for every variable, usable as a complete hint. Raises ValueError if the model
        was built to contain only decisions cheaper than this one.
    has_twins
        Some replicas of a pool are interchangeable, so symmetry detection pays.
    is_exact
        The model contains an optimum of the problem, so that its bound holds for the problem.
    """

    name: str
    problem: Problem
    model: Model
    decode: Callable[[Sequence[int]], Decision]
    encode: Callable[[Decision], list[int]]
    has_twins: bool
    is_exact: bool
