"""The formulations, one module each, found by scanning this package: a new formulation is one new file.

Every module has `NATIVE`, the name of the back-end that runs its models ("cpsat" or "pulp"), and

    build(problem, incumbent=None, **options) -> Formulation

where every option has a default. Nothing is imported before `load`: solver libraries are heavy.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def names() -> tuple[str, ...]:
    """All formulations, sorted; importing none."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


def load(name: str) -> ModuleType:
    """Import one formulation.

    Raises
    ------
    ValueError
        If there is no formulation of that name.
    """
    if name not in names():
        raise ValueError(f"formulation = {name!r}: expected one of {', '.join(names())}")
    return import_module(f"{__name__}.{name}")
