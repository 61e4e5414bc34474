"""Functions that workers run in tests: good ones and all kinds of bad ones."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time


def echo(value):
    return value


def describe():
    return {
        "pid": os.getpid(),
        "nice": os.nice(0),
        "sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "threads": [os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "NUMBA")],
        "main": getattr(sys.modules["__main__"], "__file__", ""),
        "stdin": os.read(0, 10),
    }


def rss_bytes():
    import psutil

    return psutil.Process().memory_info().rss


def exit_at_once(status=3):
    os._exit(status)


def exit_politely():
    sys.exit("bye")


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    ctypes.string_at(0)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def busy(seconds):
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        pass


def hold_the_interpreter_lock(seconds):
    """A C function that never lets other threads of the interpreter run."""
    ctypes.PyDLL(None).sleep(int(seconds))


def junk(size):
    """Junk on every standard stream, buffered and not."""
    print("junk" * size)
    print("junk" * size, file=sys.stderr)
    os.write(1, b"junk" * size)
    os.write(2, b"junk" * size)
    return size


def junk_on_the_channel():
    for number in range(3, 1000):
        try:
            os.write(number, b"junk" * 100)
        except OSError:
            continue
    time.sleep(600)


def close_everything():
    os.closerange(3, 100)
    time.sleep(600)


def unpicklable():
    return lambda: None


class Ours:
    def __reduce__(self):
        return _only_here, (os.getpid(),)


def _only_here(pid):
    if os.getpid() != pid:
        raise TypeError("not where it was made")
    return pid


def unreadable():
    return Ours()


def big(size):
    return b"x" * size


class Stubborn(Exception):
    def __init__(self, lock):
        super().__init__(lock, "stubborn")


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raise_unpicklable():
    raise Stubborn(threading.Lock())


def raise_unprintable():
    raise Unprintable


def fail():
    raise ValueError("cannot be")


def start_program():
    """Starts a program that outlives everybody unless it is killed, tells its number, and hangs."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def start_program_and_exit(path):
    with open(path, "w") as file:
        file.write(str(start_program()))
    os._exit(1)


def start_program_and_hang(path):
    with open(path, "w") as file:
        file.write(str(start_program()))
    time.sleep(600)


_warm = []


def warm_up():
    _warm.append(True)


def is_warm():
    return bool(_warm)


def note_and_exit(path):
    """Leaves one more byte in the file and dies."""
    with open(path, "ab") as file:
        file.write(b"!")
    os._exit(0)


def note_and_call(path, function, *args):
    """Makes the file, then calls another of these functions."""
    with open(path, "wb"):
        pass
    return globals()[function](*args)
