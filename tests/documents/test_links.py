"""Links of the pages that a code host shows lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "tests/benchmarks/README.md",
    *[f"docs/{p.name}" for p in ROOT.glob("docs/*.md")],
]


def targets(text: str) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", prose) if not t.startswith(("http", "#"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    """Endings may be left out in ``docs/``, whose ``notebooks/`` are copies and whose ``examples/`` are generated."""
    for target in targets((ROOT / page).read_text()):
        if page.startswith("docs/") and target == "examples/index":
            continue
        start = ROOT if page.startswith("docs/") and target.startswith("notebooks/") else (ROOT / page).parent
        path = start / target.split("#")[0]
        assert any(p.exists() for p in (path, path.with_suffix(".md"), path.with_suffix(".ipynb"))), target


def test_the_readme_links_to_every_lesson_and_guide():
    linked = {Path(target).name for target in targets((ROOT / "README.md").read_text())}
    lessons = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    guides = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md", "api.md", "changelog.md"}
    assert lessons | guides <= linked
