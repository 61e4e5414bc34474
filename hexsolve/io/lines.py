"""Lines of a file, and what is wrong with them. Knows bytes, JSON and line numbers; knows no workload format."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hexsolve.errors import InputError

T = TypeVar("T")
_BOM = b"\xef\xbb\xbf"
_NEAREST = re.compile(r"(?s)^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$")
_EXPECTED = re.compile(r"^Expected (?P<want>.*), got (?P<got>.*)$")
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<field>[^`]*)`$")


class Problems:
    """Where a reader reports what it cannot use: the first problem raises, unless they are to be collected."""

    def __init__(self, *, collect: bool = False) -> None:
        self.found: list[str] = []
        self._collect = collect

    def report(self, error: InputError) -> None:
        """Raise the error, or keep its text and go on."""
        if not self._collect:
            raise error
        self.found.append(str(error))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Report an `InputError` raised inside."""
        try:
            yield
        except InputError as error:
            self.report(error)


def numbered_lines(path: Path, problems: Problems) -> Iterator[tuple[str, bytes]]:
    """Yield (``"file:line"``, bytes) for every line that is not blank and is UTF-8.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no such line.
    """
    empty = True
    for number, line in enumerate(_raw_lines(path), start=1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if not text.strip():
            continue
        empty = False
        with problems.guard():
            yield f"{path}:{number}", _utf8(text, f"{path}:{number}")
    if empty:
        problems.report(InputError(f"{path}:1: file: expected at least one line, got an empty file"))


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise InputError(f"{path}: file: expected a readable file, got {error.strerror}") from error


def _utf8(line: bytes, where: str) -> bytes:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start}: expected UTF-8 text, got {line[error.start]:#04x}") from error
    return line


def decode(line: bytes | msgspec.Raw, as_type: type[T], where: str, *, inside: str = "") -> T:
    """Decode one JSON value strictly as `as_type`.

    Parameters
    ----------
    where : str
        ``"file:line"``, put in front of the message.
    inside : str
        Path of the value within its line, such as ``"calls[3]"``.

    Raises
    ------
    InputError
        ``file:line: field: expected ..., got ...``
    """
    try:
        return msgspec.json.decode(line, type=as_type)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {_explain(str(error), inside)}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{where}: {inside or 'line'}: expected valid JSON, got {error}") from error


def placed(where: str, make: Callable[[], T]) -> T:
    """`make()`, with `where` in front of the text of any `InputError` it raises."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _explain(message: str, inside: str) -> str:
    match = _NEAREST.match(message)
    what, path = (match["what"], match["path"] or "") if match else (message, "")
    if missing := _MISSING.match(what):
        return f"{_join(inside, path, missing['field'])}: expected a value, got none (required field)"
    if unknown := _UNKNOWN.match(what):
        return f"{_join(inside, path, unknown['field'])}: expected no such field, got one (unknown field)"
    place = _join(inside, path) or "line"
    if expected := _EXPECTED.match(what):
        return f"{place}: expected {expected['want']}, got {expected['got']}"
    return f"{place}: expected a usable value, got: {what}"


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part).replace(".[", "[")


def to_json(record: dict[str, Any]) -> str:
    """One JSON line, newline included."""
    return msgspec.json.encode(record).decode() + "\n"
