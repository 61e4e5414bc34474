"""Processes that run functions for a server that cannot wait. Knows who owns a process when; knows no solver.

At any time a process is in one hand: of a `Job`, in the thread that uses it, or of the keeper, a daemon thread that
starts processes, waits for abandoned ones, kills and reaps. Submitting and waiting need no switch of threads.

POSIX only. On Windows and in frozen applications no worker starts: `submit` raises `NoWorker`, the caller goes without.
"""

import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import astuple, dataclass
from queue import Empty, SimpleQueue
from typing import Any

from hexsolve.errors import InputError
from hexsolve.worker_main import frame
from hexsolve.worker_process import Settings, State, WorkerProcess

_CHECK_S = 1.0  # how often idle processes are looked at
_REAP_S = 0.005
_END_S = 5.0
_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 60.0


class NoWorker(RuntimeError):
    """No worker is idle: all are busy, starting, or cannot start. The message says which."""


class WorkerError(RuntimeError):
    """The function raised. The message is one line; `details` is the traceback in the worker."""

    def __init__(self, line: str, details: str = "") -> None:
        super().__init__(line)
        self.details = details


class WorkerDied(RuntimeError):
    """The worker ended before it answered; `WorkerPool.stats.failure` says how."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Counts since the pool was made.

    Attributes
    ----------
    started : processes started; crashed : ended unasked or could not start; killed : did not come back in time.
    jobs : jobs submitted; abandoned : jobs given up by their callers.
    failure : how the last lost worker was lost, "" if none was.
    """

    started: int
    crashed: int
    killed: int
    jobs: int
    abandoned: int
    failure: str


def backoff_s(failures: int) -> float:
    """Pause before the next start at a place of the pool that was lost `failures` times since its last answer."""
    return 0.0 if failures < 2 else min(_BACKOFF_S * 2.0 ** min(failures - 2, 30), _MAX_BACKOFF_S)


class _Keeper:
    """What a pool and its jobs share. Its thread holds no reference to the pool, so that a lost pool is closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = self.crashed = self.killed = self.jobs = self.abandoned = 0
        self.failure = ""
        self.reset()
        _KEEPERS.add(self)

    def reset(self) -> None:
        self.idle: deque[WorkerProcess] = deque()
        self.returned: SimpleQueue[tuple[WorkerProcess, float | None]] = SimpleQueue()  # see `take`
        self.workers: list[WorkerProcess] = []
        self.vacancies = [(-math.inf, 0)] * self.settings.size  # fill the place when; losses since its last answer
        self.lock, self.bell_lock = threading.Lock(), threading.RLock()
        self.thread: threading.Thread | None = None
        self.bell: tuple[socket.socket, ...] = ()
        self.all_up = threading.Event()
        self.closing = self.ended = False

    def start(self) -> None:
        with self.lock:
            if self.closing or self.thread is not None:
                return
            if sys.platform == "win32" or getattr(sys, "frozen", False):
                self.failure = "workers need POSIX and a Python interpreter of their own"
                return
            self.bell = socket.socketpair()
            for end in self.bell:
                end.setblocking(False)
            thread = threading.Thread(target=self.run, name="hexsolve-workers", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                for end in self.bell:
                    end.close()
                raise
            self.thread = thread

    def ring(self) -> None:
        """Wake the thread. Destructors of jobs come here: reentrant, and no global names when all has ended."""
        with self.bell_lock:
            if self.bell and not self.ended:
                with suppress(BlockingIOError):  # rung often enough
                    self.bell[1].send(b"!")

    def put_back(self, worker: WorkerProcess) -> None:
        """Take a worker that has answered."""
        worker.failures = 0
        self.idle.append(worker)

    def take(self, worker: WorkerProcess, patience_s: float | None) -> None:
        """Take a worker that has not answered, to be killed after `patience_s`; None: it has ended."""
        self.returned.put((worker, patience_s))
        self.ring()

    def run(self) -> None:
        try:
            while not self.closing:
                self.fill_vacancies()
                self.wait()
                self.take_returned()
                for worker in self.workers.copy():
                    self.look_after(worker)
                if self.vacancies or any(w.state in (State.STARTING, State.DYING) for w in self.workers):
                    self.all_up.clear()
                else:
                    self.all_up.set()
        finally:
            self.end()

    def fill_vacancies(self) -> None:
        now = time.monotonic()
        for place in [place for place in self.vacancies if place[0] <= now]:
            self.vacancies.remove(place)
            try:
                self.workers.append(WorkerProcess(self.settings, place[1]))
                self.started += 1
            except Exception as error:  # no processes or descriptors left: later there may be some
                self.crashed += 1
                self.failure = f"no worker could be started: {type(error).__name__}: {error}"
                self.vacate(place[1])

    def vacate(self, failures: int) -> None:
        self.vacancies.append((time.monotonic() + backoff_s(failures + 1), failures + 1))

    def wait(self) -> None:
        """Wait until the bell rings, a worker of the keeper's moves, or something is due."""
        poller = select.poll()
        poller.register(self.bell[0], select.POLLIN)
        for worker in self.workers:
            if worker.state in (State.STARTING, State.ABANDONED):
                poller.register(worker.channel, worker.events)
        due = min([worker.deadline for worker in self.workers] + [when for when, _ in self.vacancies])
        poller.poll(1e3 * min(max(0.0, due - time.monotonic()), _CHECK_S))
        with suppress(BlockingIOError):
            self.bell[0].recv(4096)

    def take_returned(self) -> None:
        with suppress(Empty):
            while True:
                worker, patience_s = self.returned.get_nowait()
                if patience_s is None:
                    self.lose(worker, f"ended during {worker.doing}")
                else:
                    self.abandoned += 1
                    worker.state, worker.deadline = State.ABANDONED, time.monotonic() + patience_s

    def look_after(self, worker: WorkerProcess) -> None:
        now = time.monotonic()
        if worker.state is State.DYING:
            worker.deadline = now + _REAP_S
            if worker.process.poll() is not None:
                self.bury(worker)
        elif worker.state is State.UP:
            if now >= worker.deadline:
                worker.deadline = now + _CHECK_S
                if worker.has_ended():
                    with suppress(ValueError, IndexError):  # just taken by a job, which will notice
                        self.idle.remove(worker)
                        self.lose(worker, "ended while idle")
        else:
            self.look_for_answer(worker, now)

    def look_for_answer(self, worker: WorkerProcess, now: float) -> None:
        try:
            if not worker.advance():
                if now >= worker.deadline:
                    self.lose(worker, f"was killed: {worker.doing} did not come back in time", killed=True)
                return
        except EOFError:
            self.lose(worker, f"ended during {worker.doing}")
            return
        kind, *text = worker.answer()
        if worker.state is State.STARTING and kind == "error":
            self.lose(worker, f"could not start: {text[0]}")
            return
        if worker.state is State.ABANDONED:
            worker.failures = 0
        worker.state, worker.deadline = State.UP, now + _CHECK_S
        self.idle.append(worker)

    def lose(self, worker: WorkerProcess, loss: str, *, killed: bool = False) -> None:
        self.killed += killed
        self.crashed += not killed
        worker.kill()
        worker.close()
        worker.state, worker.deadline, worker.loss = State.DYING, time.monotonic(), loss

    def bury(self, worker: WorkerProcess) -> None:
        code = worker.process.returncode
        how = signal.strsignal(-code) if code < 0 else f"exit status {code}"
        self.failure = f"worker {worker.process.pid} {worker.loss} ({how})"
        self.workers.remove(worker)
        self.vacate(worker.failures)

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
        give_up = time.monotonic() + _END_S
        for worker in self.workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, give_up - time.monotonic()))
            worker.close()
        with self.bell_lock:
            self.closing = self.ended = True
            for end in self.bell:
                end.close()
        self.all_up.set()

    def close(self) -> None:
        with self.lock:
            self.closing = True
        self.ring()
        if self.thread is not None and self.thread is not threading.current_thread():  # destructors may run there
            self.thread.join(2 * _END_S)

    def forget(self) -> None:
        """In a forked copy of the host: leave the workers, which are not ours, alone, and start anew when asked."""
        for worker in self.workers:
            worker.forget()
        for end in self.bell:
            end.close()
        self.reset()


_KEEPERS: weakref.WeakSet[_Keeper] = weakref.WeakSet()


def _forget_all() -> None:
    for keeper in list(_KEEPERS):
        keeper.forget()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_all)


class Job:
    """One call in a worker, for one thread at a time. A job that is dropped unfinished is abandoned."""

    def __init__(self, keeper: _Keeper, worker: WorkerProcess, function: str) -> None:
        self.function = function
        self._keeper = keeper
        self._worker: WorkerProcess | None = worker
        self._outcome: tuple[Any, ...] | None = None

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Whether there is a result, after waiting for it for at most `timeout_s`."""
        until = time.monotonic() + timeout_s
        while (worker := self._worker) is not None and worker.wait(until - time.monotonic()):
            try:
                if worker.advance():
                    self._outcome, self._worker = worker.answer(), None
                    self._keeper.put_back(worker)
            except EOFError:
                self._lose(worker)
        return self._outcome is not None

    def result(self) -> Any:
        """What the function returned.

        Raises
        ------
        WorkerError
            If it raised, or what it returned cannot be pickled, or cannot be unpickled here.
        WorkerDied
            If the process ended during the call.
        LookupError
            If `poll` has not returned True: not finished, or abandoned.
        """
        if self._outcome is None:
            raise LookupError(f"{self.function}: {'not finished' if self._worker else 'abandoned'}")
        kind, *values = self._outcome
        if kind == "error":
            raise WorkerError(*values)
        if kind == "died":
            raise WorkerDied(f"worker {values[0]} ended during {self.function}")
        return values[0]

    def abandon(self, patience_s: float = 0.0) -> None:
        """Give up at once. The worker is killed and replaced if it does not come back within `patience_s`."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._keeper.take(worker, patience_s)

    def __del__(self) -> None:
        self.abandon()

    def _begin(self, message: memoryview) -> bool:
        """Send the call; False if the process turns out to have ended."""
        assert self._worker is not None
        try:
            self._worker.post(message, self.function)
        except EOFError:
            self._lose(self._worker)
        return self._worker is not None

    def _lose(self, worker: WorkerProcess) -> None:
        self._outcome, self._worker = ("died", worker.process.pid), None
        self._keeper.take(worker, None)


class WorkerPool:
    """Processes that wait for jobs. Closed by `close`, as a context manager, when lost, and when the program exits.

    A copy has the same settings, and processes of its own from its first job on.

    Parameters
    ----------
    size
        Number of processes, >= 1.
    warm_up
        Function, "package.module:name", that each process calls without arguments before its first job.
    niceness
        Added to the processes' niceness, 0..19.
    stderr_file
        File that the processes' standard error is appended to, with tracebacks of crashes in C. None: discarded.
    start
        Start the processes now, in the background; else at the first job, which then finds none.
    """

    def __init__(
        self,
        size: int = 1,
        *,
        warm_up: str | None = None,
        niceness: int = 0,
        stderr_file: str | None = None,
        start: bool = True,
    ) -> None:
        if size < 1:
            raise InputError(f"size = {size!r}: expected an integer >= 1")
        if not 0 <= niceness <= 19:
            raise InputError(f"niceness = {niceness!r}: expected an integer in 0..19")
        self._keeper = _Keeper(Settings(size, warm_up, niceness, stderr_file))
        self._close = weakref.finalize(self, self._keeper.close)
        if start:
            self.start()

    def start(self) -> None:
        """Start the processes in the background, if they have not been started."""
        self._keeper.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every process has started, at most `timeout_s`; whether that is so."""
        return self._keeper.all_up.wait(timeout_s) and not self._keeper.closing

    def submit(self, function: str, *args: object) -> Job:
        """Let an idle worker call `function`, "package.module:name". Never waits for a worker.

        Raises
        ------
        NoWorker
            If none is idle.
        Exception
            Whatever pickle raises if the arguments cannot be pickled.
        """
        message, keeper = frame((function, args)), self._keeper
        try:
            keeper.start()
        except (OSError, RuntimeError) as error:
            raise NoWorker(f"no worker can be started: {error}") from error
        while True:
            try:
                worker = keeper.idle.pop()
            except IndexError:
                raise NoWorker(self._why_none_is_idle()) from None
            job = Job(keeper, worker, function)
            if job._begin(message):
                with keeper.lock:
                    keeper.jobs += 1
                return job

    @property
    def size(self) -> int:
        """Number of processes when all are up."""
        return self._keeper.settings.size

    @property
    def idle(self) -> int:
        """Number of processes that wait for a job."""
        return len(self._keeper.idle)

    @property
    def stats(self) -> PoolStats:
        """Counts so far."""
        k = self._keeper
        return PoolStats(k.started, k.crashed, k.killed, k.jobs, k.abandoned, k.failure)

    def close(self) -> None:
        """Kill all processes and wait until they are gone. Unfinished jobs fail with `WorkerDied`."""
        self._close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _lazy_pool, astuple(self._keeper.settings)

    def _why_none_is_idle(self) -> str:
        keeper = self._keeper
        if keeper.closing:
            return "the pool is closed"
        busy = sum(worker.state is State.UP for worker in keeper.workers.copy())
        lost = f"; last loss: {keeper.failure}" if keeper.failure else ""
        return f"0 of {self.size} workers idle, {busy} at work{lost}"


def _lazy_pool(size: int, warm_up: str | None, niceness: int, stderr_file: str | None) -> WorkerPool:
    return WorkerPool(size, warm_up=warm_up, niceness=niceness, stderr_file=stderr_file, start=False)
