"""What every fit can report, whether it was just made or read back from a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pm_mlem.estimate.labels import LARGE
from pm_mlem.optimize.problem import Status

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from pm_mlem.estimate.estimate import Estimate


class Reported(ABC):
    """Estimates with their uncertainty and their criteria.

    :class:`pm_mlem.Fit` and :class:`pm_mlem.SavedFit` are its two kinds. Tables, plots and comparisons need nothing
    else of a fit.
    """

    estimator: str
    method: str
    message: str
    seconds: float
    status: Status
    converged: bool
    log_likelihood: float
    log_prior: float | None
    log_posterior: float | None
    entropy: float
    n_params: int
    n_obs: float
    n_units: float
    estimates: xr.Dataset
    latent_probabilities: xr.Dataset
    _estimate: Estimate | None
    """The estimate itself; None where the model is not at hand."""

    # --- criteria ------------------------------------------------------------------------------------------

    @property
    def aic(self) -> float:
        """Akaike's criterion, ``2 p - 2 log L`` (Akaike 1974), p = ``n_params``, log L = ``log_likelihood``."""
        return 2.0 * self.n_params - 2.0 * self.log_likelihood

    @property
    def aicc(self) -> float:
        """AIC with the small-sample correction ``2 p (p + 1) / (n - p - 1)`` (Hurvich & Tsai 1989), n = ``n_obs``.

        NaN where n <= p + 1.
        """
        p, n = self.n_params, self.n_obs
        return self.aic + 2.0 * p * (p + 1) / (n - p - 1) if n > p + 1 else float("nan")

    @property
    def bic(self) -> float:
        """Bayesian information criterion, ``p log n - 2 log L`` (Schwarz 1978), n = ``n_obs``."""
        return self.n_params * float(np.log(self.n_obs)) - 2.0 * self.log_likelihood

    @property
    def icl(self) -> float:
        """BIC plus twice the classification entropy, ``bic + 2 entropy`` (Biernacki, Celeux & Govaert 2000)."""
        return self.bic + 2.0 * self.entropy

    # --- what the two kinds supply -------------------------------------------------------------------------

    @abstractmethod
    def standard_errors(self, kind: str = "observed") -> xr.Dataset: ...

    @abstractmethod
    def confidence_intervals(
        self, level: float = 0.95, kind: str = "wald", *, var_names: Sequence[str] | None = None, covariance: str = ...
    ) -> xr.Dataset: ...

    @abstractmethod
    def summary(self, level: float = 0.95, kind: str | Sequence[str] = "observed") -> pd.DataFrame: ...

    @abstractmethod
    def to_datatree(self) -> xr.DataTree: ...

    @property
    @abstractmethod
    def _parameters(self) -> frozenset[str]:
        """Names of the parameters among the estimates."""

    @property
    @abstractmethod
    def _summed_out(self) -> str:
        """The latents in a line."""

    @abstractmethod
    def _note(self, name: str, index: tuple[int, ...], error: float) -> str:
        """Why an entry has no standard error."""


def is_fit(item: Any) -> bool:
    """Whether something reports like a fit; anything else has to be draws."""
    return isinstance(item, Reported)


def knows_model(item: Any) -> bool:
    """Whether something is a fit whose model is at hand."""
    return is_fit(item) and item._estimate is not None


def listed(fit: Reported) -> list[str]:
    """Variables with rows in the summary."""
    return [str(n) for n, a in fit.estimates.data_vars.items() if n in fit._parameters or a.size <= LARGE]
