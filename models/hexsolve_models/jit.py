"""Compilation of the hot loops of this package. Knows numba; knows nothing of what is compiled.

Every kernel is written once, in the subset of Python that numba compiles; the tests compare it with itself interpreted.
"""

from collections.abc import Callable
from functools import cache, wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def kernel(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Compile `function` at its first call (1-3 s, then cached on disk where numba can write).

    It keeps the GIL: who gives it up for half a millisecond waits up to five beside a busy thread to get it back.
    `kernel(function).__wrapped__` runs interpreted, `kernel(function).compiled()` is numba's dispatcher. numba is
    imported at the first call only. A kernel may call kernels of its own module: numba's cache looks at one file.
    """

    @cache
    def compiled() -> Callable[_Params, _Result]:
        from numba import njit

        return cast(Callable[_Params, _Result], njit(cache=True, error_model="numpy")(_calling_compiled(function)))

    @wraps(function)
    def call(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        return compiled()(*args, **kwargs)

    call.compiled = compiled  # type: ignore[attr-defined]
    return call


def _calling_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with numba's dispatchers in place of the kernels it calls."""
    assert isinstance(function, FunctionType)
    named: dict[str, Any] = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    inner = {name: value.compiled() for name, value in named.items() if hasattr(value, "compiled")}
    if not inner:
        return function
    same = FunctionType(function.__code__, function.__globals__ | inner, function.__name__)
    same.__module__, same.__qualname__ = function.__module__, function.__qualname__
    return same
