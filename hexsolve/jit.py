"""Compilation of the hot kernels. Knows numba's switches; knows nothing of what is compiled.

Every kernel is written once, in the subset of Python that numba compiles. With ``HEXSOLVE_NO_JIT=1`` the same
functions run interpreted, which is how the tests check that compiled and interpreted results are equal.
"""

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba import njit as _njit

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

COMPILED = os.environ.get("HEXSOLVE_NO_JIT", "") != "1"


def kernel(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Compile `function` on first call, keep the machine code on disk, and release the GIL while it runs."""
    if not COMPILED:
        return function
    compiled: Callable[_Params, _Result] = _njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled
