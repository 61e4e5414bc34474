"""Range checks of policy parameters. Knows the message; knows no policy."""

from math import isfinite

from hexsolve.errors import InputError


def expect_positive(name: str, value: float) -> None:
    """Refuse a parameter that is not a finite number > 0.

    Raises
    ------
    InputError
        Naming the parameter, what was expected and what came.
    """
    if not (isfinite(value) and value > 0):
        raise InputError(f"{name} = {value!r}: expected a finite number > 0")


def expect_share(name: str, value: float) -> None:
    """Refuse a parameter that is not in [0, 1].

    Raises
    ------
    InputError
        Naming the parameter, what was expected and what came.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} = {value!r}: expected a number in [0, 1]")
