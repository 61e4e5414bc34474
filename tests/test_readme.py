"""The README's library example runs as it stands, and what it says is there is there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs_and_places_the_call():
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    done = subprocess.run(
        [sys.executable, "-c", example[1]], capture_output=True, text=True, check=True, timeout=120, cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'models'}", "PATH": "", "HOME": str(Path.home())},
    )  # fmt: skip
    assert re.match(r"P\d-\w+ D\d-\w+ 0 prefill on P\d-\w+, D\d-\w+ decodes", done.stdout)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_every_link_and_folder_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(r"^\| `([\w./]+)`", README, re.MULTILINE)
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).exists()] == []
