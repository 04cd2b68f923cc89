"""Sphinx configuration. Warnings are errors.

Notebooks are shown with the outputs that they are stored with (`make notebooks` refreshes them). The gallery is run
unless `-t norun` is given.
"""

import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.util import inspect

project = "pm_mlem"
author = "The pm_mlem developers"
copyright = "2026, the pm_mlem developers"
version = release = installed_version("pm_mlem")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "gallery", "**sg_execution_times.rst"]
exclude_patterns += [f"examples/*.{kind}" for kind in ("ipynb", "json", "py", "zip")]
html_theme = "sphinx_book_theme"
html_title = "pm_mlem"
html_static_path = ["_static"]

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run them
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"
inspect.is_singledispatch_function = lambda obj: False  # one signature, not one for every rule that is registered
autodoc_default_options = {"members": True, "inherited-members": False}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

run = not tags.has("norun")  # noqa: F821  (Sphinx's own)
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": "/",
    "capture_repr": (),
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": run,
    "abort_on_example_error": True,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}

warnings.filterwarnings("ignore", message="Importing .* is deprecated")

DOCS = Path(__file__).resolve().parent


def copy_notebooks(app) -> None:
    """Sphinx reads nothing outside ``docs/``: bring the notebooks there, with their links to the guides."""
    copies = DOCS / "notebooks"
    copies.mkdir(exist_ok=True)
    originals = {path.name: path for path in (DOCS.parent / "notebooks").glob("*.ipynb")}
    for path in copies.glob("*.ipynb"):
        if path.name not in originals:
            path.unlink()
    for name, path in originals.items():
        text, copy = path.read_text().replace("](../docs/", "](../"), copies / name
        if not copy.exists() or copy.read_text() != text:  # Sphinx reads again what is newer
            copy.write_text(text)


def setup(app) -> None:
    app.connect("builder-inited", copy_notebooks)
