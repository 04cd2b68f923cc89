"""The guide to extending: one door for its names, and a test at the end of every recipe."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pm_mlem import extend

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "extend.md").read_text()
RECIPES = {part.splitlines()[0]: part for part in re.split(r"^## (?=Add )", GUIDE, flags=re.MULTILINE)[1:]}


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_every_name_of_the_door_is_there():
    assert set(extend.__all__) == {name for names in extend.ROOMS.values() for name in names.split()}
    for name in extend.__all__:
        assert callable(getattr(extend, name))
    assert dir(extend) == sorted(extend.__all__)
    with pytest.raises(AttributeError, match="'no_such_name'"):
        extend.no_such_name  # noqa: B018


def test_type_checkers_find_the_names_where_they_are():
    tree = ast.parse(Path(extend.__file__).read_text())
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {node.module.removeprefix("pm_mlem."): {a.name for a in node.names} for node in typed.body}
    assert seen == {room: set(names.split()) for room, names in extend.ROOMS.items()}


def test_the_door_is_light():
    """A rule for an operation needs neither JAX nor ArviZ, and ``import pm_mlem`` does not open the door."""
    code = (
        "import sys, pm_mlem; print('pm_mlem.extend' in sys.modules);"
        "from pm_mlem.extend import lift_node, domain; print(*[m for m in ('jax', 'arviz_plots') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert output.split() == ["False"]


def test_the_reference_lists_the_names():
    listed = set(re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE))
    assert set(extend.__all__) <= listed


def test_there_are_five_recipes():
    assert list(RECIPES) == [
        "Add a rule for an Op",
        "Add a discrete distribution",
        "Add a distribution's M-step",
        "Add a summation strategy",
        "Add a plot",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_ends_with_its_test(name):
    *recipe, test = re.split(r"^### ", RECIPES[name], flags=re.MULTILINE)
    assert test.startswith("The test that goes with it\n")
    assert blocks("".join(recipe)), "no code"
    assert sum(block.count("assert ") for block in blocks(test)) >= 2


def test_recipes_use_public_names_only():
    for block in blocks(GUIDE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("pm_mlem"):
                assert node.module == "pm_mlem.extend"
                assert {alias.name for alias in node.names} <= set(extend.__all__)


def test_files_that_the_recipes_name_are_there():
    """By their last part: where the tests keep their files is the tests' business."""
    known = {path.name for folder in ("pm_mlem", "tests", "docs") for path in (ROOT / folder).rglob("*.py")}
    named = {name.split("/")[-1] for name in re.findall(r"`([\w/]+\.py)`", GUIDE)}
    assert len(named) >= 6
    assert named <= known
