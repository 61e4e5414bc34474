"""Compilation of the hot kernels. Knows numba's switches; knows nothing of what is compiled.

Every kernel is written once, in the subset of Python that numba compiles. With ``HEXSOLVE_NO_JIT=1`` the same
functions run interpreted, which is how the tests check that compiled and interpreted results are equal.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from numba import njit as _njit
from numba.core.options import DefaultOptions

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

_KERNEL_MODULES = (
    "tables.py",
    "snapshot.py",
    "projection.py",
    "settle.py",
    "listplan.py",
    "crowding.py",
    "standalone.py",
    "adoption.py",
    "search/board.py",
    "search/times.py",
    "search/moves.py",
    "search/anneal.py",
    "policies/workflow_fcfs.py",
    "policies/_dispatch.py",
)
_KERNEL_STAMP = tuple(
    (path.stat().st_mtime_ns, path.stat().st_size) for path in (Path(__file__).parent / m for m in _KERNEL_MODULES)
)

COMPILED = os.environ.get("HEXSOLVE_NO_JIT", "") != "1"


def kernel(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """Compile `function` on first call and keep the machine code on disk.

    It keeps the GIL: who gives it up for half a millisecond waits up to five beside a busy thread to get it back.
    """
    return _compile(function, {})


def long_kernel(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """`kernel` for what runs so long that other threads should go on beside it: releases the GIL."""
    return _compile(function, {"nogil": True})


def leaf(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
    """`kernel` for a function that makes no array: without reference counts a call costs half as much."""
    return _compile(function, {"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {})


def _compile(function: Callable[_Params, _Result], options: dict[str, bool]) -> Callable[_Params, _Result]:
    if not COMPILED:
        return function
    compiled = _njit(cache=True, error_model="numpy", **options)(function)
    _stamp_with_all_kernels(compiled)
    typed: Callable[_Params, _Result] = compiled
    return typed


def _stamp_with_all_kernels(compiled: Any) -> None:
    """Make cached machine code depend on every kernel module: numba checks only the file of the outermost function.

    Without this an edit of `projection` would leave its old code inlined in the cached kernels of `listplan`.
    """
    cache_file = getattr(compiled._cache, "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = (cache_file._source_stamp, _KERNEL_STAMP)
