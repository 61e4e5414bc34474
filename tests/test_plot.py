"""The attainment plot: what the lines say, not how they look (that was looked at)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hexsolve.errors import InputError
from hexsolve.plot import PALETTE, attainment_png, plot_attainment
from hexsolve.study import Run

ROOT = Path(__file__).resolve().parent.parent


def run(policy: str, stretches: list[float], seed: int = 0) -> Run:
    return Run(policy, "demo", "w", seed, 9, 1.0, np.array(stretches), np.array([0.1]), {}, {}, {}, 1.0)


def curve(axes: Axes, policy: str) -> dict[float, float]:
    """Share by stretch, where the step function arrives."""
    (line,) = (line for line in axes.lines if line.get_label() == policy)
    return dict(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def test_a_curve_steps_up_at_every_stretch() -> None:
    axes = plot_attainment([run("a", [2.0, 1.0, 4.0, 1.0])])
    # Sorted 1, 1, 2, 4: half are within 1, three quarters within 2, all within 4.
    assert curve(axes, "a") == {1.0: 0.5, 2.0: 0.75, 4.0: 1.0}
    (dots,) = (line for line in axes.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == [4.0, 4.0]
    assert list(dots.get_ydata()) == [0.95, 0.99]


def test_seeds_are_pooled_and_policies_told_apart() -> None:
    axes = plot_attainment([run("a", [1.0]), run("b", [5.0]), run("a", [3.0], seed=1)])
    assert curve(axes, "a") == {1.0: 0.5, 3.0: 1.0}
    lines = {line.get_label(): line for line in axes.lines if str(line.get_label()) in "ab"}
    assert lines["a"].get_color() != lines["b"].get_color()
    assert lines["a"].get_linestyle() != lines["b"].get_linestyle()
    texts = {text.get_text(): text for text in axes.texts}
    assert texts["a"].get_color() == lines["a"].get_color()
    assert {"a", "b", "Req95", "Req99"} <= texts.keys()
    assert texts["a"].xy[1] != texts["b"].xy[1]


def test_seven_policies_have_seven_colours_and_labels_at_seven_heights() -> None:
    axes = plot_attainment([run(name, [1.0 + i, 2.0 + i, 3.0 + i]) for i, name in enumerate("abcdefg")])
    labels = [text for text in axes.texts if text.get_text() in "abcdefg"]
    assert {text.get_color() for text in labels} == set(PALETTE)
    assert len({text.xy[1] for text in labels}) == 7
    # From the top down the labels go from the leftmost curve to the rightmost.
    assert [text.get_text() for text in sorted(labels, key=lambda text: -text.xy[1])] == list("abcdefg")


def test_given_axes_are_used_and_nothing_else() -> None:
    axes = Figure().subplots()
    assert plot_attainment([run("a", [1.0, 2.0])], axes) is axes
    assert axes.get_xlim()[0] <= 1.0
    assert axes.get_xlim()[1] >= 2.0


def test_the_png_is_one_and_no_runs_are_refused() -> None:
    assert attainment_png([run("a", [1.0, 1.0])]).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="at least one run"):
        plot_attainment([])


def test_neither_pyplot_nor_matplotlib_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; sys.path[:0] = ['.', 'models']\n"
        "import numpy as np, hexsolve.plot\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from hexsolve.study import Run\n"
        "hexsolve.plot.attainment_png([Run('a', 'c', 'w', 0, 1, 1.0, np.ones(2), np.ones(1), {}, {}, {}, 1.0)])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
