"""Run the notebooks and store their outputs, so that a reader sees tables and pictures without running anything.

``python docs/make_notebooks.py`` runs all of ``notebooks/`` in place; names as arguments (``03_hidden_markov``) choose
some of them. What differs from run to run or from machine to machine is not stored: times, styles, the version of
Python. A notebook that raises, or prints to the error stream, stays as it was.
"""

import base64
import os
import re
import sys
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COLOURS = 128


def main(names: list[str]) -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not names or path.stem in names:
            refresh(path)
            print(path.name, path.stat().st_size // 1024, "kB", flush=True)


def refresh(path: Path) -> None:
    """Run one notebook and write it, if all went well."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        extra_arguments=["--log-level=40"],
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})  # the package of this checkout
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [cleaned(output) for output in cell.outputs]
    notebook.metadata = NotebookNode(
        kernelspec=notebook.metadata.kernelspec, language_info=NotebookNode(name="python")
    )  # fmt: skip
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def cleaned(output: NotebookNode) -> NotebookNode:
    """An output without what changes from run to run; pictures with few colours."""
    if output.output_type == "stream":
        if output.name == "stderr":
            raise RuntimeError(f"The notebook prints to the error stream:\n{output.text}")
        return output
    data = output.data
    if "image/png" in data:
        data["image/png"] = few_colours(data["image/png"])
        data.pop("text/plain", None)
    if "text/html" in data:
        data["text/html"] = re.sub(r"<style scoped>.*?</style>\s*", "", data["text/html"], flags=re.DOTALL)
        if "<style" in data["text/html"]:  # xarray's, with identifiers that change; the plain text says the same
            del data["text/html"]
    output.metadata = NotebookNode()
    return output


def few_colours(picture: str) -> str:
    """A smaller file of the same picture."""
    image = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")
    content = BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(content, format="png", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
