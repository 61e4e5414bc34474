"""One worker process and the channel to it. Knows how to start, talk to and kill it; knows no pool.

Started with `subprocess`: a spawned process would import the caller's `__main__`, a forked one inherit its locks.
"""

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hexsolve.worker_main import HEADER, MAGIC

START_S = 120.0  # patience with a start: the first may compile
_CHUNK_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 20  # asked for; the system grants what it allows
_PUSH_S = 0.005  # how long `post` pushes a message that does not fit the buffer; the rest leaves while polled
_ONE_THREAD = dict.fromkeys(
    [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")] + ["VECLIB_MAXIMUM_THREADS"], "1"
)
# glibc: buffers of 1 MB that go back to the system after each job cost 1.6 ms of page faults per job.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # a host that has reset SIGPIPE must not die of a dead worker


class State(Enum):
    """Who looks after the process: its job if UP, else the keeper."""

    STARTING = "starting"
    UP = "idle or with a job"
    ABANDONED = "abandoned"
    DYING = "not yet reaped"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `WorkerPool` was asked for; it documents the fields."""

    size: int
    warm_up: str | None
    niceness: int
    stderr_file: str | None


class WorkerProcess:
    """One process and the channel to it. Raises `OSError` if it cannot be started."""

    def __init__(self, settings: Settings, failures: int) -> None:
        import fcntl  # not on Windows

        self.failures = failures  # losses at this place of the pool since its last answer
        self.state, self.deadline = State.STARTING, time.monotonic() + START_S
        self.doing, self.loss = "start", ""
        self.unsent, self.received = memoryview(b""), bytearray()
        self.lock = threading.Lock()  # nobody closes the channel while another reads: its number may be taken again
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        try:
            for end in (self.channel, theirs):
                with suppress(OSError):  # a wish
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            # In a host that has closed its standard streams, `theirs` may have one of their numbers.
            with (
                socket.socket(fileno=fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)) as passed,
                open(settings.stderr_file or os.devnull, "ab") as stderr,
            ):
                path = os.pathsep.join(map(os.path.abspath, sys.path))
                arguments = [str(passed.fileno()), str(settings.niceness), settings.warm_up or ""]
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "hexsolve.worker_main", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=[passed.fileno()],
                    process_group=0,  # to be killed with all it has started; out of reach of the terminal's Ctrl-C
                    env={**_KEEP_MEMORY, **os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                )
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()

    def post(self, message: memoryview, doing: str) -> None:
        """Begin to send. Raises `EOFError` if the process has ended before it can have run anything."""
        self.doing, self.unsent, self.received = doing, message, bytearray()
        give_up = time.monotonic() + _PUSH_S
        while not self._move(self._send) and time.monotonic() < give_up:
            self.wait(1e-3)

    def advance(self) -> bool:
        """Move what moves without waiting; whether the answer is complete. Raises `EOFError` if none will come."""
        return self._move(self._send) and self._move(self._receive)

    def _move(self, step: Callable[[], None]) -> bool:
        try:
            with self.lock:
                step()
        except BlockingIOError:
            return False
        except OSError as error:
            raise EOFError from error
        return True

    def _send(self) -> None:
        while self.unsent:
            self.unsent = self.unsent[self.channel.send(self.unsent, _NO_SIGNAL) :]

    def _receive(self) -> None:
        while not self._is_complete():
            chunk = self.channel.recv(_CHUNK_BYTES)
            if not chunk:
                raise EOFError
            self.received += chunk

    def _is_complete(self) -> bool:
        if len(self.received) < HEADER.size:
            return False
        magic, length = HEADER.unpack_from(self.received)
        missing: int = HEADER.size + length - len(self.received)
        if magic != MAGIC or missing < 0:
            raise EOFError
        return missing == 0

    def answer(self) -> tuple[Any, ...]:
        """The complete answer: ("answer", value) or ("error", line, traceback)."""
        try:
            answer: tuple[Any, ...] = pickle.loads(memoryview(self.received)[HEADER.size :])
        except Exception as error:
            answer = ("error", f"answer of {self.doing} cannot be read here: {type(error).__name__}: {error}")
        self.received = bytearray()
        return answer

    def wait(self, timeout_s: float) -> bool:
        """Whether something can move, after waiting for it for at most `timeout_s`."""
        ends = [self.channel]
        timeout_s = min(max(timeout_s, 0.0), 3600.0)
        try:
            # `poll` would round up to whole milliseconds.
            return any(select.select([] if self.unsent else ends, ends if self.unsent else [], [], timeout_s))
        except ValueError:  # a number above 1023, for which `poll` rounds down, or closed
            return self._poll(int(1e3 * timeout_s))

    def _poll(self, timeout_ms: int) -> bool:
        poller = select.poll()
        try:
            poller.register(self.channel, self.events)
        except ValueError:  # closed: `advance` says so
            return True
        return bool(poller.poll(timeout_ms))

    @property
    def events(self) -> int:
        return select.POLLOUT if self.unsent else select.POLLIN

    def has_ended(self) -> bool:
        """Whether the process of an idle worker is gone. Takes nothing: a job may begin at the same time."""
        try:
            return not self.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def kill(self) -> None:
        """Kill the process with all it has started."""
        if self.process.returncode is None:  # else it is reaped, and its number may be another's
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with suppress(OSError):
                self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        """Close the channel; `advance` raises from now on."""
        with self.lock:
            self.channel.close()

    def forget(self) -> None:
        """In a forked copy of the host: leave the process, which is not ours, alone."""
        self.channel.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.returncode = 0  # else its destructor complains
