"""The child's side of `workers`: runs named functions one by one. Knows frames and how to end; knows no solver.

A frame is a header (magic, length of the body in bytes) and a body, pickled with protocol 5. The parent sends (function
name, arguments); the child answers ("answer", value) or ("error", one line, traceback). The channel is a socket of its
own, so whatever a function writes to its standard streams cannot get into it.
"""

import faulthandler
import importlib
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

MAGIC = b"HXW1"
HEADER = struct.Struct("!4sQ")


def frame(message: object) -> memoryview:
    """`message` as it goes over the channel. Raises what pickle raises."""
    data = bytearray(HEADER.size)
    pickle.Pickler(SimpleNamespace(write=data.extend), protocol=5).dump(message)  # a large array is copied once
    HEADER.pack_into(data, 0, MAGIC, len(data) - HEADER.size)
    return memoryview(data)


@cache
def resolve(name: str) -> Callable[..., Any]:
    """The function that "package.module:name" stands for."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    function: Callable[..., Any] = found
    return function


def main() -> None:
    """Arguments: number of the channel's descriptor, niceness, name of the warm-up function or ""."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    faulthandler.enable()
    descriptor, niceness, warm_up = sys.argv[1:]
    _end_with_parent()
    os.set_inheritable(int(descriptor), False)
    os.nice(int(niceness))
    channel = socket.socket(fileno=int(descriptor))
    channel.sendall(_answer(lambda: _warm_up(warm_up)))
    while True:
        request = _read(channel)
        channel.sendall(_answer(partial(_call, request)))
        del request


def _warm_up(name: str) -> None:
    if name:
        resolve(name)()


def _call(request: bytearray) -> object:
    name, args = pickle.loads(request)
    return resolve(name)(*args)


def _answer(run: Callable[[], object]) -> memoryview:
    try:
        return frame(("answer", run()))
    except BaseException as error:  # SystemExit too: only the parent ends a worker
        line = "".join(traceback.format_exception_only(error)).strip()
        return frame(("error", line, "".join(traceback.format_exception(error))))


def _read(channel: socket.socket) -> bytearray:
    _, length = HEADER.unpack(_read_bytes(channel, HEADER.size))
    return _read_bytes(channel, length)


def _read_bytes(channel: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        received = channel.recv_into(view)
        if not received:
            _end()
        view = view[received:]
    return data


def _end_with_parent() -> None:
    """End as soon as the parent does, which holds the other end of standard input: also in the middle of a function."""
    lifeline = os.dup(0)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)  # what functions start must not wait on the lifeline
    os.close(devnull)
    if sys.platform == "linux":
        # A function in C that keeps the interpreter's lock would keep the thread below from running: ask the kernel.
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_end_at_hang_up, args=(lifeline,), daemon=True).start()


def _end_at_hang_up(lifeline: int) -> None:
    os.read(lifeline, 1)  # nothing is ever written
    _end()


def _end() -> None:
    os.killpg(0, signal.SIGKILL)  # with the programs that functions have started


if __name__ == "__main__":
    main()
