"""What the README, the guides and the notebooks say is run."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.documents

ROOT = Path(__file__).resolve().parents[2]


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)


PAGES = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md") if blocks(p))]


@pytest.mark.parametrize("name", PAGES)
def test_code_blocks_run_in_order(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / name)
    assert code
    namespace = {}
    for block in code:
        exec(compile(block, name, "exec"), namespace)


NOTEBOOKS = sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name, tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "notebooks" / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "notebooks" / name).read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    namespace = {}
    for cell in code:
        exec(compile(cell, name, "exec"), namespace)
    printed = capsys.readouterr().out
    assert all(float(d) < 2e-4 for d in re.findall(r"difference at most (\S+)", printed))
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    stored = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    assert words(printed) == words(stored), "the stored outputs are those of other code: run `make notebooks`"


def words(text: str) -> list[str]:
    """What was printed, whatever the numbers are: their last digits differ between machines."""
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", " # ", text).split()


GALLERY = sorted(p.name for p in (ROOT / "docs" / "gallery").glob("*.py"))


@pytest.mark.filterwarnings("ignore::pymc.exceptions.ImputationWarning")
@pytest.mark.parametrize("name", GALLERY)
def test_gallery_scripts_run_and_draw_one_picture(name, tmp_path, monkeypatch, capsys):
    from matplotlib import pyplot

    text = (ROOT / "docs" / "gallery" / name).read_text()
    monkeypatch.chdir(tmp_path)
    exec(compile(text, name, "exec"), {})
    assert len(pyplot.get_fignums()) == 1
    code = re.sub(r'^""".*?"""', "", text, flags=re.DOTALL)
    assert 15 <= len([line for line in code.splitlines() if line.strip()]) <= 40


def test_the_readme_example_is_short():
    assert len(blocks(ROOT / "README.md")[0].strip().splitlines()) <= 16
