"""Typed reading of TOML, YAML and JSON. Knows text, types and how to say what is wrong; knows no file's meaning."""

import difflib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from hexsolve.errors import InputError

T = TypeVar("T")

SUFFIXES = (".toml", ".yaml", ".yml", ".json")


def read_file(path: Path, into: type[T]) -> T:
    """Read a file into a `msgspec.Struct` type; the suffix says which format.

    Raises
    ------
    InputError
        If the file is missing, is not well formed or does not fit the type (file, field, value and expectation named).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a readable UTF-8 text file ({error})") from error
    return read_text(text, str(path), path.suffix, into)


def read_text(text: str, label: str, suffix: str, into: type[T]) -> T:
    """Like `read_file` for text that is already here; `label` names it in errors."""
    raw = _parse(text, label, suffix)
    try:
        return msgspec.convert(raw, type=into)
    except msgspec.ValidationError as error:
        raise InputError(f"{label}: {_explain(str(error), raw, into)}") from None


def nearest(word: str, known: Sequence[str]) -> str:
    """Hint for a message: the known word most like `word`, and all known ones."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def _parse(text: str, label: str, suffix: str) -> Any:
    try:
        if suffix == ".toml":
            return tomllib.loads(text)
        if suffix in (".yaml", ".yml"):
            return yaml.safe_load(text)
        if suffix == ".json":
            return json.loads(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise InputError(f"{label}: expected well-formed {suffix[1:]} ({' '.join(str(error).split())})") from error
    raise InputError(f"{label}: expected a file name that ends in one of {', '.join(SUFFIXES)}")


def _explain(message: str, raw: Any, into: type) -> str:
    """Turn msgspec's message into ours: `field = value: expected ...`."""
    what, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    steps = re.findall(r"[^.\[\]]+", path)
    node = _type_at(inspect.type_info(into), steps)
    unknown, missing = (
        re.match(r"Object contains unknown field `(.*)`", what),
        re.search(r"required field `(.*)`", what),
    )
    if unknown and isinstance(node, inspect.StructType):
        keys = [field.encode_name for field in node.fields]
        return f"{_place(path)}unknown key {unknown[1]!r}: {nearest(unknown[1], keys)}"
    if missing:
        return f"{_place(path)}missing key {missing[1]!r}: expected {_describe(_type_at(node, [missing[1]]))}"
    value = json.dumps(_value_at(raw, steps), default=str)
    return f"{path or 'content'} = {value:.60}: expected {_describe(node)}"


def _place(path: str) -> str:
    return f"{path}: " if path else ""


def _type_at(node: inspect.Type, steps: list[str]) -> inspect.Type:
    for step in steps:
        node = _without_none(node)
        if isinstance(node, inspect.StructType):
            node = next(field.type for field in node.fields if field.encode_name == step)
        elif isinstance(node, inspect.ListType):
            node = node.item_type
    return _without_none(node)


def _without_none(node: inspect.Type) -> inspect.Type:
    if isinstance(node, inspect.Metadata):
        return _without_none(node.type)
    if isinstance(node, inspect.UnionType):
        return next(_without_none(option) for option in node.types if not isinstance(option, inspect.NoneType))
    return node


def _value_at(raw: Any, steps: list[str]) -> Any:
    for step in steps:
        raw = raw[int(step)] if isinstance(raw, list) else raw[step]
    return raw


def _describe(node: inspect.Type) -> str:
    if isinstance(node, inspect.IntType | inspect.FloatType):
        noun = "an integer" if isinstance(node, inspect.IntType) else "a number"
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", node.ge), (">", node.gt), ("<=", node.le))
            if bound is not None
        ]
        return " ".join([noun, " and ".join(bounds)]).strip()
    if isinstance(node, inspect.StrType):
        return "a non-empty string" if node.min_length else "a string"
    if isinstance(node, inspect.BoolType):
        return "true or false"
    if isinstance(node, inspect.ListType):
        least = f" with at least {node.min_length} entry" if node.min_length else ""
        return f"a list{least} (each {_describe(_without_none(node.item_type))})"
    return "a table of keys and values"
