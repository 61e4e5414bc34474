"""What goes into and comes out of a solver, in its own words. Knows no solver and judges nothing."""

from collections.abc import Sequence
from dataclasses import dataclass


class ModelError(RuntimeError):
    """The solver refused a model as invalid: a bug in a formulation. The message is the solver's own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a solver must stop, and what makes its run repeatable.

    wall_ms : wall-clock limit, or None.
    deterministic : limit in the solver's deterministic units, or None; the same result on every machine.
    seed : >= 0.  workers : threads, >= 1.
    """

    wall_ms: float | None
    deterministic: float | None
    seed: int
    workers: int


@dataclass(frozen=True, slots=True)
class NativeOutcome:
    """The solver's answer.

    status : its own name for it.  values : one per variable, or None without a solution.
    objective : of the values, inf without.  bound : -inf if there is none.
    """

    status: str
    values: Sequence[int] | None
    objective: int | float
    bound: int | float
    deterministic_time: float
