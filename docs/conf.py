"""Sphinx configuration. Notebooks and examples are executed unless `-t norun` is given; warnings are errors."""

import warnings
from importlib.metadata import version as installed_version

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
run = not tags.has("norun")  # noqa: F821  (Sphinx's own); `-t norun`: prose and references only
nb_execution_mode = "force" if run else "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "inherited-members": False}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

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
