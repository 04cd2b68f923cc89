"""The notebooks are stored with their outputs: what a reader sees is what the code printed, on any machine."""

import base64
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OF_ONE_MACHINE = re.compile(r"/(root|home|tmp|Users)/|[A-Z]:\\\\|site-packages| at 0x[0-9a-f]+|Traceback")
SILENT = re.compile(r"^(import|from|assert|with|def|[\w., ]+ = )|^\S.*;$")
REFRESH = "run `make notebooks`"


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def texts(cell: dict) -> list[str]:
    """All that a cell shows as text."""
    shown = []
    for output in cell["outputs"]:
        shown += ["".join(output["text"])] if "text" in output else []
        shown += ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return shown


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_was_run_once_and_in_order(path):
    assert [cell["execution_count"] for cell in code_cells(path)] == list(range(1, len(code_cells(path)) + 1)), REFRESH


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_that_shows_something_has_its_output(path):
    """A last line that is an expression has a value, a figure a picture, a print its text."""
    pictures = 0
    for cell in code_cells(path):
        source = "".join(cell["source"])
        kinds = [output["output_type"] for output in cell["outputs"]]
        data = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        if re.search(r"^\s*print\(", source, flags=re.MULTILINE):
            assert "stream" in kinds, REFRESH
        if re.search(r"subplots\(|mlem\.plot_", source):
            assert "image/png" in data, REFRESH
        last = source.strip().splitlines()[-1]
        if not last.startswith((" ", ")")) and not SILENT.match(last) and not last.startswith(("print(", "figure.")):
            assert data, f"{last}: {REFRESH}"
        pictures += "image/png" in data
    assert pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_those_of_any_machine(path):
    for cell in code_cells(path):
        assert cell["metadata"] == {}, REFRESH
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", "a warning, or a progress bar"
        for text in texts(cell):
            assert not OF_ONE_MACHINE.search(text), text
            assert "<style" not in text, REFRESH
    assert set(json.loads(path.read_text())["metadata"]["language_info"]) == {"name"}, REFRESH


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pictures_are_small_and_not_empty(path):
    for cell in code_cells(path):
        for output in cell["outputs"]:
            picture = base64.b64decode("".join(output.get("data", {}).get("image/png", "")))
            if picture:
                width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))
                assert 200 <= width <= 1400 and 100 <= height <= 900
                assert 2_000 < len(picture) < 200_000


def test_the_folder_stays_small():
    assert sum(path.stat().st_size for path in (ROOT / "notebooks").rglob("*") if path.is_file()) < 3_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_between_the_notebooks_and_the_guides_lead_somewhere(path):
    """On a code host; the copies that Sphinx reads are one folder deeper in ``docs/``."""
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            for text, target in re.findall(r"\[([^\]]*)\]\(([^)#\s]+)[^)]*\)", "".join(cell["source"])):
                if not target.startswith("http"):
                    assert text, f"{target}: a code host shows nothing"
                    assert (path.parent / target).exists(), target
