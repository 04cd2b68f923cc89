"""What is imported is declared; a wheel, installed into an empty environment, imports and fits."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import numpy as np, pymc as pm, pm_mlem as mlem
assert "site-packages" in mlem.__file__, mlem.__file__
with pm.Model() as model:
    p = pm.Beta("p", 1, 1)
    pm.Bernoulli("y", p, observed=np.repeat([1, 0], [60, 40]))
print(round(mlem.fit(model, progressbar=False).estimates["p"].item(), 6))
from pm_mlem.demo import waiting_times
print(len(waiting_times()))
"""


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"pm_mlem"}


def test_what_the_package_imports_is_among_its_dependencies():
    """Other packages bring many modules along, but not on every machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    parts_of_arviz = {"arviz_base": "arviz", "arviz_plots": "arviz", "arviz_stats": "arviz"}
    optional = {"nutpie", "pymc_extras"}  # used where they are installed

    def names(lines):
        return {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in lines}

    used = {parts_of_arviz.get(m, m) for path in (ROOT / "pm_mlem").rglob("*.py") for m in imported(path)}
    assert used - optional <= names(project["dependencies"])
    assert optional <= names(extras)


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    def run(*command, **options):
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, **options).stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "empty")
    python = str(tmp_path / "empty" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel))
    assert run(python, "-c", PROGRAM).split() == ["0.6", "272"]
