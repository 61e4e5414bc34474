"""Run a function and stop waiting for it after a while. Knows threads; knows nothing of what runs."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class StillBusy(RuntimeError):
    """A function that was left behind has not returned yet."""


class Watchdog:
    """Runs one function at a time; one that does not return in time is left behind in a daemon thread.

    A thread cannot be killed, so nothing new is started until the one left behind has returned. Copies share nothing.
    """

    def __init__(self) -> None:
        self._left_behind: threading.Thread | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watchdog":
        return Watchdog()

    def run(self, function: Callable[[], Result], patience_s: float) -> Result:
        """The function's result, or what it raised.

        Raises
        ------
        TimeoutError
            If it does not return within `patience_s`.
        StillBusy
            If an earlier one is still running.
        """
        if self._left_behind is not None and self._left_behind.is_alive():
            raise StillBusy(f"{self._left_behind.name} has not returned yet")
        results: list[Result] = []
        errors: list[BaseException] = []
        thread = threading.Thread(target=_keep, args=(function, results, errors), name="hexsolve-solve", daemon=True)
        thread.start()
        thread.join(patience_s)
        self._left_behind = thread if thread.is_alive() else None
        if self._left_behind is not None:
            raise TimeoutError(f"no result after {patience_s:.1f} s")
        if errors:
            raise errors[0]
        return results[0]


def _keep(function: Callable[[], Result], results: list[Result], errors: list[BaseException]) -> None:
    try:
        results.append(function())
    except BaseException as error:
        errors.append(error)
