"""Compilation of the hot loops of this package. Knows numba; knows nothing of what is compiled.

Every kernel is written once, in the subset of Python that numba compiles; the tests compare it with itself interpreted.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar, cast

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def kernel(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Compile `function` at its first call (1-3 s, then cached on disk where numba can write), without the GIL.

    `kernel(function).__wrapped__` runs interpreted, `kernel(function).compiled()` is numba's dispatcher. numba is
    imported at the first call only.
    """

    @cache
    def compiled() -> Callable[_Params, _Result]:
        from numba import njit

        return cast(Callable[_Params, _Result], njit(cache=True, nogil=True, error_model="numpy")(function))

    @wraps(function)
    def call(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        return compiled()(*args, **kwargs)

    call.compiled = compiled  # type: ignore[attr-defined]
    return call
