"""What is imported is declared; a wheel, installed elsewhere, imports and fits."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import numpy as np, pymc as pm, pm_mlem as mlem
with pm.Model() as model:
    p = pm.Beta("p", 1, 1)
    pm.Bernoulli("y", p, observed=np.repeat([1, 0], [60, 40]))
print(mlem.__file__)
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


@pytest.mark.compiled
def test_the_wheel_is_all_of_the_package(tmp_path):
    """Installed elsewhere it imports, reads its data and fits; in ``make plain`` beside its dependencies alone."""

    def run(*command, **options):
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, **options).stdout

    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("pm_mlem/")}
    files = [p for p in (ROOT / "pm_mlem").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert packed == {str(p.relative_to(ROOT)) for p in files}

    run(*pip, "install", "--no-deps", "--target", "elsewhere", str(wheel))
    place, p, rows = run(sys.executable, "-c", PROGRAM, env=os.environ | {"PYTHONPATH": "elsewhere"}).split()
    assert Path(tmp_path, place).resolve().is_relative_to((tmp_path / "elsewhere").resolve())
    assert (p, rows) == ("0.6", "272")
