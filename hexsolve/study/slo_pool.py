"""Functions over tasks, here or in other processes. Knows joblib and Ray; knows nothing of what is computed.

Results come as they are done, each with the number of its task, so whoever asks must not depend on their order.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from hexsolve.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Crash(Exception):
    """The process that ran a task died."""


class Pool(Protocol):
    """Where tasks are run; `workers` at a time."""

    workers: int

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result | Crash]]:
        """(position of the task, its result), as they are done. `function` must not raise."""
        ...


class LocalPool:
    """This process (1 job) or as many of its own (joblib's loky).

    A task whose process dies, killed for its memory perhaps, comes back as a `Crash`; the others are not lost.

    Raises
    ------
    InputError
        If `jobs` is not >= 1.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise InputError(f"jobs = {jobs}: expected an integer >= 1")
        self.workers = jobs

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result | Crash]]:
        """See `Pool`."""
        if self.workers == 1:
            yield from ((position, function(task)) for position, task in enumerate(tasks))
            return
        left = dict(enumerate(tasks))
        try:
            for position, result in self._parallel(function, left):
                del left[position]
                yield position, result
        except _worker_death():
            # Nothing says whose process it was: from here on every task has a process that only it can take down.
            for position, task in left.items():
                try:
                    yield from self._parallel(function, {position: task})
                except _worker_death() as error:
                    yield position, Crash(f"the worker process died: {' '.join(str(error).split())[:200]}")

    def _parallel(self, function: Callable[[Task], Result], tasks: dict[int, Task]) -> Iterator[tuple[int, Result]]:
        from joblib import Parallel, delayed

        parallel = Parallel(n_jobs=self.workers, batch_size=1, pre_dispatch="2*n_jobs", return_as="generator_unordered")
        yield from parallel(delayed(_numbered)(function, *item) for item in list(tasks.items()))


class RayPool:
    """A Ray cluster: ``local`` starts one here, anything else is the address of one that runs.

    The package has to be installed on every machine of it, in the version that is installed here.

    Raises
    ------
    InputError
        If Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str, workers: int | None = None) -> None:
        if find_spec("ray") is None:
            raise InputError('ray: not installed; expected `pip install "hexsolve[ray]"` or --jobs instead')
        import ray

        try:
            where: dict[str, Any] = {"num_cpus": workers} if address == "local" else {"address": address}
            ray.init(**where, ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"ray {address!r}: expected a Ray cluster that can be reached ({error})") from None
        self.workers = workers or max(1, int(_resources(ray).get("CPU", 1)))

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result | Crash]]:
        """See `Pool`; twice as many tasks as workers are under way."""
        import ray

        remote = ray.remote(function)
        waiting = iter(enumerate(tasks))
        running: dict[Any, int] = {}
        while True:
            while len(running) < 2 * self.workers and (item := next(waiting, None)) is not None:
                running[remote.remote(item[1])] = item[0]
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                position = running.pop(reference)
                try:
                    yield position, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield position, Crash(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        import ray

        ray.shutdown()


def _resources(ray: Any) -> dict[str, float]:
    return dict(ray.cluster_resources())


def _numbered(function: Callable[[Task], Result], position: int, task: Task) -> tuple[int, Result]:
    return position, function(task)


def _worker_death() -> type[Exception]:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    kind: type[Exception] = BrokenProcessPool
    return kind
