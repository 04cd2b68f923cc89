"""Make the pictures of the page on plots: run its code and save every plot under its name.

``python docs/make_pictures.py`` writes ``docs/_static/plot_<name>.png``.
"""

import re
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from arviz_plots import PlotCollection
from PIL import Image

DOCS = Path(__file__).resolve().parent
COLOURS = 64


def plots(page: Path) -> dict[str, PlotCollection]:
    """The plots that the code of a page makes, by the names it gives them."""
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)
    return {name: value for name, value in namespace.items() if isinstance(value, PlotCollection)}


def save(plot: PlotCollection, path: Path) -> None:
    """A small file: few colours."""
    content = BytesIO()
    plot.viz["figure"].item().savefig(content, dpi=90, format="png")
    image = Image.open(content).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    for name, plot in plots(DOCS / "plots.md").items():
        target = DOCS / "_static" / f"plot_{name}.png"
        save(plot, target)
        print(target.name, target.stat().st_size // 1024, "kB")
