"""The public surface: complete, sorted, typed and lazy."""

import ast
import importlib
import logging
import tomllib
from pathlib import Path

import pytest

import hexsolve

ROOT = Path(__file__).parent.parent


def test_all_is_sorted_and_every_name_is_there():
    assert hexsolve.__all__ == sorted(hexsolve.__all__)
    assert dir(hexsolve) == hexsolve.__all__
    for name in hexsolve.__all__:
        assert getattr(hexsolve, name) is not None


def test_what_type_checkers_see_is_what_is_there():
    tree = ast.parse((ROOT / "hexsolve" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*seen, "__version__"]) == hexsolve.__all__
    for public, (module, name) in seen.items():
        value = importlib.import_module(f"{module}.{name}") if public == "events" else None
        assert getattr(hexsolve, public) is (value or getattr(importlib.import_module(module), name))


def test_unknown_names_are_unknown():
    with pytest.raises(AttributeError, match="no attribute 'Instance'"):
        _ = hexsolve.Instance


def test_the_version_is_the_distribution_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert hexsolve.__version__ == project["version"]


def test_the_library_is_silent_unless_asked():
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("hexsolve").handlers)


@pytest.mark.parametrize("package", ["hexsolve", "models/hexsolve_models"])
def test_types_ship(package):
    assert (ROOT / package / "py.typed").exists()
