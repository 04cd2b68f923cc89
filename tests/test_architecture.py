"""Rules that a machine can check: who imports whom, who touches what, and what the first import costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pm_mlem

ROOT = Path(pm_mlem.__file__).parent
ROOMS = ["graph", "objective", "optimize", "inference", "estimate", "results", "plots"]
NEUTRAL = {"errors", "progress", "arguments", "precision"}
DOORS = {"align", "compare", "demo", "em_steps", "explain", "extend", "fit", "likelihood_ratio", "marginalize"}
DOORS |= {"sample", "select"}
PRIVATE = r"\._(engine|optimum|weights|information|curvature|jacobians|report|diagnosis|scores)\b"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """What a file imports of this package and others, within functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(MODULES) or {node.module}
            found |= {node.module} if names - set(MODULES) else set()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def files():
    return [p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] in ROOMS]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_before_it(path):
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) | NEUTRAL
    for module in imports(path):
        if module.startswith("pm_mlem."):
            assert module.split(".")[1] in allowed, f"{path.name} imports {module}"


def in_circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others, and those that import them."""
    left = dict(graph)
    while ready := [name for name, needed in left.items() if not needed & set(left)]:
        left = {name: needed for name, needed in left.items() if name not in ready}
    return sorted(left)


def test_circles_are_found():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}) == ["a", "b", "c"]


def test_no_circle_of_imports():
    """Those within functions and for types included; a package's own ``__init__`` gathers names for others."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    graph = {}
    for name in set(MODULES) - packages:
        found = imports(MODULES[name]) & set(MODULES) - {name}
        others = {p for p in found & packages if not name.startswith(f"{p}.")}
        gathered = set().union(*(imports(MODULES[p]) & set(MODULES) for p in others))
        graph[name] = (found | gathered) - packages
    assert in_circles(graph) == []


def test_only_estimates_know_what_they_are_made_of():
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] != "estimate":
            assert not re.findall(PRIVATE, path.read_text()), path


def test_nobody_below_a_fit_knows_it():
    for name, path in MODULES.items():
        if name.split(".")[1:2] and name.split(".")[1] in ROOMS and name != "pm_mlem.results.fit":
            assert "pm_mlem.results.fit" not in imports(path), f"{name} imports the fit"


def test_made_up_fits():
    """``compare`` makes no fit, ``em_steps`` only the one that users ask a step for."""
    assert "Fit(" not in (ROOT / "compare.py").read_text()
    assert (ROOT / "em_steps.py").read_text().count(" Fit(") == 1


@pytest.mark.parametrize("room", ["optimize", "inference"])
def test_optimizers_and_inference_know_no_pymc(room):
    for path in (ROOT / room).glob("*.py"):
        for module in imports(path):
            assert module.split(".")[0] not in {"pymc", "pytensor", "arviz", "xarray"}, f"{path.name} imports {module}"


def test_every_module_is_in_a_room():
    known = set(ROOMS) | NEUTRAL | DOORS | {"__init__", "data"}
    assert {p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.name != "__pycache__"} - {"py"} <= known


def test_jax_only_crosses_the_border_in_one_file():
    """PyTensor graphs become JAX functions in objective/lowering and nowhere else."""
    users = [p.name for p in ROOT.rglob("*.py") if any("link.jax" in m for m in imports(p))]
    assert users == ["dispatch.py"]


def test_a_fit_costs_no_imports_that_it_does_not_need():
    """Two thirds of a second for SciPy's distributions, more for ArviZ and plots: whoever needs them imports them."""
    code = (
        "import sys, pymc; before = set(sys.modules); import pm_mlem.results.fit;"
        "print(*[m for m in ('scipy.stats', 'arviz', 'matplotlib', 'sklearn') if m in set(sys.modules) - before])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == []


def test_the_first_import_is_light():
    code = (
        "import sys, time, pymc; a = time.process_time(); import pm_mlem; b = time.process_time();"
        "print(b - a, *[m for m in ('jax', 'arviz', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert output[1:] == []
    assert float(output[0]) < 0.5
