"""The parts of the portfolio, one module each, found by scanning this package: a new component is one new file.

Every module has

    run(problem, hint: Decision | None, limits: Limits) -> Proposal

and `IS_NATIVE`: whether a solver library does the work, which can hang or crash and is better left to a worker process.
A component may answer late or wrong; `hexsolve.solve` judges all it says. Nothing is imported before it is asked for.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from hexsolve.backends.outcome import Limits
from hexsolve.errors import InputError
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem

LOCAL_SEARCH = "local_search"


@cache
def names() -> tuple[str, ...]:
    """All components, sorted; importing none."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


@cache
def load(name: str) -> ModuleType:
    """Import one component.

    Raises
    ------
    InputError
        If there is no component of that name.
    """
    if name not in names():
        raise InputError(f"component = {name!r}: expected one of {', '.join(names())}")
    return import_module(f"{__name__}.{name}")


def run(name: str, problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    """Ask one component; by name, so that a worker process can."""
    proposal: Proposal = load(name).run(problem, hint, limits)
    return proposal


def warm_up(*, native: bool | None = None) -> None:
    """Load components and whatever they need: all, or only (not) those of solver libraries."""
    for name in names():
        if native in (None, load(name).IS_NATIVE):
            getattr(load(name), "warm_up", _nothing)()


def warm_up_natives() -> None:
    """What a worker process needs."""
    warm_up(native=True)


def _nothing() -> None:
    """A component without `warm_up` has nothing to load."""
