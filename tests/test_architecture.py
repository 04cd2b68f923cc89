"""Rules that a machine can check: who imports whom, and what the first import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pm_mlem

ROOT = Path(pm_mlem.__file__).parent
ROOMS = ["graph", "objective", "optimize", "inference", "estimate", "results", "plots"]
NEUTRAL = {"errors", "progress"}
ABOVE = {"align", "compare", "demo", "em_steps", "explain", "fit", "likelihood_ratio", "marginalize"}
ABOVE |= {"sample", "select"}


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def files():
    return [p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] in ROOMS]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_rooms_before_it(path):
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) | NEUTRAL | ({"compare"} if room == "plots" else set())
    for module in imports(path):
        if module.startswith("pm_mlem."):
            assert module.split(".")[1] in allowed, f"{path.name} imports {module}"


def modules(path: Path):
    """The package's modules that a file imports anywhere: at its top, within functions, for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            target = ROOT.parent / Path(*name.split("."))
            if name.startswith("pm_mlem.") and target.with_suffix(".py").exists():
                yield target.with_suffix(".py")


@pytest.mark.parametrize("room", ["graph", "objective"])
def test_imports_within_a_room_form_no_circle(room):
    """Packages' own files aside: they gather names for others."""
    left = {p: set(modules(p)) for p in (ROOT / room).rglob("*.py") if p.name != "__init__.py"}
    while ready := [path for path, needed in left.items() if not needed & set(left)]:
        left = {path: needed for path, needed in left.items() if path not in ready}
    assert sorted(str(path.relative_to(ROOT)) for path in left) == []


@pytest.mark.parametrize("room", ["optimize", "inference"])
def test_optimizers_and_inference_know_no_pymc(room):
    for path in (ROOT / room).glob("*.py"):
        for module in imports(path):
            assert module.split(".")[0] not in {"pymc", "pytensor", "arviz", "xarray"}, f"{path.name} imports {module}"


def test_every_module_is_in_a_room():
    known = set(ROOMS) | NEUTRAL | ABOVE | {"__init__", "data"}
    assert {p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.name != "__pycache__"} - {"py"} <= known


def test_jax_only_crosses_the_border_in_one_file():
    """PyTensor graphs become JAX functions in objective/lower.py and nowhere else."""
    users = [p.name for p in ROOT.rglob("*.py") if any("link.jax" in m for m in imports(p))]
    assert users == ["lower.py"]


def test_the_first_import_is_light():
    code = (
        "import sys, time, pymc; a = time.process_time(); import pm_mlem; b = time.process_time();"
        "print(b - a, *[m for m in ('jax', 'arviz', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert output[1:] == []
    assert float(output[0]) < 0.5
