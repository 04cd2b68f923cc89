"""Maximum likelihood, MAP and EM for PyMC models."""

from importlib import import_module
from typing import TYPE_CHECKING

from pm_mlem.errors import NotIdentifiedError, UnsupportedModelError

if TYPE_CHECKING:
    from pm_mlem.fit import fit
    from pm_mlem.optimize import EM, LBFGS, Newton
    from pm_mlem.results.fit import Fit

_LAZY = {
    "fit": "pm_mlem.fit",
    "EM": "pm_mlem.optimize",
    "LBFGS": "pm_mlem.optimize",
    "Newton": "pm_mlem.optimize",
    "Fit": "pm_mlem.results.fit",
}
__version__ = "0.1.0"
__all__ = ["EM", "LBFGS", "Fit", "Newton", "NotIdentifiedError", "UnsupportedModelError", "fit"]


def __getattr__(name: str):
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pm_mlem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
