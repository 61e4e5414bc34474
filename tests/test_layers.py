"""Imports go one way. The order is data here: a module may import what stands in an earlier row, or its own package."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = (
    ("atomic", "errors", "events", "jit", "worker_main"),
    (
        "outlook",
        "remainder",
    ),
    ("workflow", "profile", "datafile", "worker_process"),
    ("cluster", "arrivals", "decode_pace", "predict", "profile_fit", "workers"),
    ("io", "load", "profile_file", "tables"),
    ("cluster_file", "least_times", "projection", "snapshot"),
    ("catalog", "offline", "policy", "standalone"),
    ("books", "generate", "listplan"),
    ("crowding", "search", "settle", "state", "stretch_cost"),
    ("adoption", "epoch", "inbox", "placement"),
    ("backends",),
    ("proposal",),
    ("components",),
    ("portfolio",),
    ("solve",),
    ("stages",),
    ("policies",),
    ("engine",),
    ("sim",),
    ("clairvoyant", "recording", "snapshot_file"),
    ("study", "timeline"),
    ("plot",),
    ("plot_parts",),
    ("plot_gap", "plot_slo"),
    ("cli", "__main__"),
)
"""Rows of modules and packages of `hexsolve`, lowest first. `hexsolve_models` lies below all of them."""

SIM_KNOWS = {"errors", "workflow", "profile", "decode_pace", "cluster", "predict", "tables", "sim"}
"""The simulator knows nouns, length predictors and the names of stages: no policy, no engine, no state."""

SOLVER_LIBRARIES = {
    "ortools": ("hexsolve.backends.", "hexsolve_models."),
    "pulp": ("hexsolve.backends.", "hexsolve_models."),
    "highspy": ("hexsolve.backends.", "hexsolve_models."),
    "matplotlib": ("hexsolve.plot", "hexsolve.timeline"),
    "click": ("hexsolve.cli",),
    "rich": ("hexsolve.cli", "hexsolve.study.report"),
    "joblib": ("hexsolve.study.slo_pool",),
    "ray": ("hexsolve.study.slo_pool",),
    "pyarrow": ("hexsolve.study.slo_results",),
    "numba": ("hexsolve.jit", "hexsolve_models.jit"),
}
"""Heavy libraries and the modules that may import them."""


def modules():
    """name -> (syntax tree, whether it is a package)."""
    found = {}
    for base in (ROOT, ROOT / "models"):
        for package in ("hexsolve", "hexsolve_models"):
            for file in sorted((base / package).rglob("*.py")) if (base / package).is_dir() else ():
                parts = file.relative_to(base).with_suffix("").parts
                is_package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if is_package else parts)
                found[name] = (ast.parse(file.read_text(encoding="utf-8")), is_package)
    return found


MODULES = modules()
RANK = {name: row for row, names in enumerate(LAYERS) for name in names}


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(name, *, when_run=False):
    """Every module that `name` imports anywhere, also in functions; unless `when_run`, also for type checkers only."""
    targets = set()
    tree = MODULES[name][0]
    unseen = {id(inner) for node in ast.walk(tree) if is_for_type_checkers(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if when_run and id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = full & MODULES.keys()
            targets |= submodules | ({node.module} if len(submodules) < len(full) else set())
    return targets


def component(name):
    """The row's entry: `hexsolve.sim.kernel` -> `sim`."""
    return name.split(".")[1] if "." in name else ""


ENGINE = sorted(name for name in MODULES if name.startswith("hexsolve."))


def test_every_module_has_a_place():
    known = {component(name) for name in ENGINE}
    assert known - RANK.keys() == set()
    assert len(RANK) == sum(map(len, LAYERS))


@pytest.mark.parametrize("name", ENGINE)
def test_imports_go_down(name):
    for target in imported(name):
        if target.startswith("hexsolve.") and component(target) != component(name):
            lower, here = RANK[component(target)], RANK[component(name)]
            assert lower < here, f"{name} imports {target}, which does not stand below it"
        assert target != "hexsolve", f"{name} imports the public names"


def test_the_mathematics_does_not_know_the_engine():
    for name in MODULES:
        if name.startswith("hexsolve_models"):
            assert not [t for t in imported(name) if t == "hexsolve" or t.startswith("hexsolve.")], name


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {t for t in imported(name, when_run=True) if t in MODULES and t != name}
        for name in MODULES
        if name != "hexsolve"
    }
    for name, targets in graph.items():  # a package that re-exports its modules is no circle
        if MODULES[name][1]:
            targets -= {t for t in targets if t.startswith(f"{name}.") and name not in graph[t]}
    assert list(TopologicalSorter(graph).static_order())


def test_the_simulator_knows_nouns_only():
    for name in ENGINE:
        if component(name) == "sim":
            outside = {component(t) for t in imported(name) if t.startswith("hexsolve.")} - SIM_KNOWS
            assert not outside, f"{name} imports {sorted(outside)}"
            assert not [t for t in imported(name) if t.startswith("hexsolve_models")]


@pytest.mark.parametrize("library", SOLVER_LIBRARIES)
def test_heavy_libraries_stay_where_they_belong(library):
    for name in MODULES:
        if any(target.split(".")[0] == library for target in imported(name)):
            assert name.startswith(SOLVER_LIBRARIES[library]), f"{name} imports {library}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(MODULES[name][0])
