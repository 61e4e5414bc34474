"""What a component of the portfolio answers. Knows decisions and bounds; judges nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan

from hexsolve.backends.outcome import Limits
from hexsolve_models import Decision, Problem


@dataclass(frozen=True, slots=True)
class Proposal:
    """The answer of one component.

    Attributes
    ----------
    decision : to be judged by the referee; None if there is none.
    claimed : what the component says the decision costs; nan if it says nothing.
    bound : no decision of the problem costs less, it says; -inf if it says nothing.
    status : the native solver's word ("OPTIMAL", ...), or "".
    detail : why there is no more, in words.
    work : repeatable measure of what it did, in units of its own.
    build_ms : of the time it took, what went into building a model.
    history : (ms since it began, cost) whenever it found a better decision, as far as it knows.
    """

    decision: Decision | None = None
    claimed: float = nan
    bound: float = -inf
    status: str = ""
    detail: str = ""
    work: float = 0.0
    build_ms: float = 0.0
    history: tuple[tuple[float, float], ...] = ()


Component = Callable[[Problem, Decision | None, Limits], Proposal]
