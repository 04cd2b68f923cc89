"""A fit read back from a tree: everything for a report, nothing that needs the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import xarray as xr

from pm_mlem.arguments import checked, flag, level, names, optional
from pm_mlem.estimate.estimate import as_count
from pm_mlem.estimate.labels import unknown
from pm_mlem.optimize.problem import Status
from pm_mlem.results.summary import Shown, summary_table

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.results.bootstrap import Bootstrap

NEEDS_MODEL = frozenset(
    {
        "model", "bootstrap", "decode", "influence", "information_matrix_test", "laplace", "predict", "profile",
        "sample_posterior_predictive", "score", "score_test", "start_history", "wald_test",
    }
)  # fmt: skip
"""What a :class:`pm_mlem.Fit` has and a saved one cannot have."""
REFIT = "it needs the model, which a tree does not hold: fit again with mlem.fit(model)"


@dataclass(frozen=True, eq=False, repr=False)
class SavedFit(Shown):
    """A fit restored from its tree, for reporting, without its model.

    Made by :func:`pm_mlem.from_datatree`. It has the estimates, their uncertainty, the criteria and the tables of the
    :class:`pm_mlem.Fit` that wrote the tree, under the same names and with the same values. Whatever computes anything
    new about the model (``bootstrap``, ``profile``, ``predict``, ...) is refused: fit again for it.
    """

    _tree: xr.DataTree

    def __reduce__(self):
        return from_datatree, (self._tree,)

    def __getattr__(self, name: str) -> NoReturn:
        if name in NEEDS_MODEL:
            raise AttributeError(f"A saved fit has no '{name}': {REFIT}.")
        raise AttributeError(f"'SavedFit' has no attribute '{name}'.")

    # --- how it went ---------------------------------------------------------------------------------------

    @property
    def estimator(self) -> str:
        """What was maximised: "mle" or "map"."""
        return str(self._tree.attrs["estimator"])

    @property
    def method(self) -> str:
        """What was run, in words."""
        return str(self._tree.attrs["method"])

    @property
    def message(self) -> str:
        """How the run ended and what to do about it."""
        return str(self._tree.attrs["message"])

    @property
    def seconds(self) -> float:
        """How long the fit took."""
        return float(self._tree.attrs["seconds"])

    @property
    def status(self) -> Status:
        """How the run ended."""
        return Status(self._tree.attrs["status"])

    @property
    def converged(self) -> bool:
        return self.status is Status.CONVERGED

    @property
    def iterations(self) -> int:
        """Iterations of the run that was kept."""
        return int(self._tree.attrs["iterations"])

    @cached_property
    def history(self) -> xr.Dataset:
        """As :attr:`pm_mlem.Fit.history`."""
        return self._group("optimizer_trace")

    @cached_property
    def starts(self) -> pd.DataFrame:
        """As :attr:`pm_mlem.Fit.starts`."""
        group = self._group("starts")
        table = group.to_dataframe().reset_index()[["start", *map(str, group.data_vars)]]
        text = {str(name): str for name, column in group.data_vars.items() if column.dtype.kind not in "if"}
        return table.astype({**text, "optimum": "Int64"})

    # --- estimates -----------------------------------------------------------------------------------------

    @cached_property
    def estimates(self) -> xr.Dataset:
        """Parameters and Deterministics at the optimum, as :attr:`pm_mlem.Fit.estimates`."""
        estimates = self._group("point_estimate", estimator=self.estimator)
        return estimates.drop_attrs(deep=True).assign_attrs(estimates.attrs)  # without the roles

    @cached_property
    def _parameters(self) -> frozenset[str]:
        """Names of the parameters among the estimates."""
        found = self._tree["point_estimate"].data_vars.items()
        return frozenset(str(name) for name, array in found if array.attrs["role"] == "parameter")

    @property
    def log_likelihood(self) -> float:
        """Log p(y | estimates), as :attr:`pm_mlem.Fit.log_likelihood`."""
        return float(self._tree.attrs["log_likelihood"])

    @property
    def log_prior(self) -> float | None:
        """Density of the parameters' priors at the estimates; None under "mle"."""
        return self._optional("log_prior")

    @property
    def log_posterior(self) -> float | None:
        """``log_likelihood + log_prior``, not normalized; None under "mle"."""
        return self._optional("log_posterior")

    @cached_property
    def pointwise_log_likelihood(self) -> xr.Dataset:
        """Log-likelihood of every independent unit at the estimates."""
        return self._group("pointwise_log_likelihood")

    @cached_property
    def latent_probabilities(self) -> xr.Dataset:
        """p(z = k | y, estimates) for each discrete latent; last dimension ``<z>_state``."""
        return self._group("latent_posterior") if "latent_posterior" in self._tree.children else xr.Dataset()

    # --- sizes and criteria --------------------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        """Free parameters, counted in the unconstrained space."""
        return int(self._tree.attrs["n_params"])

    @property
    def n_obs(self) -> float:
        """Observations, as :attr:`pm_mlem.Fit.n_obs`."""
        return as_count(float(self._tree.attrs["n_obs"]))

    @property
    def n_units(self) -> float:
        """Independent units of the data, as :attr:`pm_mlem.Fit.n_units`."""
        return as_count(float(self._tree.attrs["n_units"]))

    @property
    def entropy(self) -> float:
        """Classification entropy, as :attr:`pm_mlem.Fit.entropy`."""
        return float(self._tree.attrs["entropy"])

    # --- uncertainty ---------------------------------------------------------------------------------------

    @checked(small_sample=flag)
    def covariance(
        self,
        kind: str = "observed",
        space: str = "constrained",
        cluster=None,
        *,
        small_sample: bool = False,
        bootstrap: Bootstrap | None = None,
    ) -> xr.DataArray:
        """Covariance matrix of the estimates from the observed information; other kinds need the model.

        Parameters
        ----------
        kind : {"observed"}
        space : {"constrained", "unconstrained"}
        cluster, small_sample, bootstrap
            As :meth:`pm_mlem.Fit.covariance` has them; refused here.
        """
        check_kind(kind, cluster, small_sample, bootstrap)
        if space not in ("constrained", "unconstrained"):
            raise ValueError(f"space={space!r} must be 'constrained' or 'unconstrained'.")
        if "covariance" in self._tree.children:
            matrix = self._group("covariance")[space]
        else:
            names: list[str] = []
            matrix = xr.DataArray(np.zeros((0, 0)), {"parameter": names, "parameter_bis": names})
        matrix = matrix.rename(dict(zip(matrix.dims, ("parameter", "parameter_bis"), strict=True)))
        return matrix.rename("covariance").assign_attrs(kind=kind, estimator=self.estimator)

    @checked(small_sample=flag)
    def standard_errors(
        self, kind: str = "observed", cluster=None, *, small_sample: bool = False, bootstrap: Bootstrap | None = None
    ) -> xr.Dataset:
        """Standard errors of parameters and Deterministics; arguments as for :meth:`covariance`."""
        check_kind(kind, cluster, small_sample, bootstrap)
        return self._group("standard_error")

    @checked(level=level, var_names=optional(names), small_sample=flag)
    def confidence_intervals(
        self,
        level: float = 0.95,
        kind: str = "wald",
        *,
        var_names: Sequence[str] | None = None,
        bootstrap: Bootstrap | None = None,
        covariance: str = "observed",
        cluster=None,
        small_sample: bool = False,
    ) -> xr.Dataset:
        """Confidence intervals; dimension ``ci_bound`` (lower, upper).

        Parameters
        ----------
        level : float
            For Wald intervals 0.5, 0.8, 0.89, 0.9, 0.94, 0.95, 0.99 or the level that the tree was written with.
        kind : {"wald", "profile", "bootstrap"}
            "wald", or the kind that the tree was written with, at its level.
        var_names : sequence of str, optional
        bootstrap, covariance, cluster, small_sample
            As :meth:`pm_mlem.Fit.confidence_intervals` has them; refused here.

        Raises
        ------
        ValueError
            Intervals that the tree does not hold, or an unknown variable.
        """
        check_kind(covariance, cluster, small_sample, bootstrap, "covariance")
        found = self._intervals(level, kind)
        if var_names is None:
            return found
        for name in var_names:
            if name not in found:
                raise ValueError(unknown(name, [str(n) for n in found.data_vars], "var_names"))
        return found[list(var_names)]

    def _intervals(self, level: float, kind: str) -> xr.Dataset:
        written = self._group("confidence_interval")
        if kind == written.attrs["kind"] and np.isclose(level, written.attrs["level"]):
            return written
        ladder = self._group("wald_interval")
        levels = ladder["level"].values
        near = np.flatnonzero(np.isclose(levels, level))
        if kind == "wald" and len(near):
            return ladder.isel(level=near[0], drop=True).assign_attrs(level=level)
        wald = ", ".join(f"{v:g}" for v in levels)
        other = (
            "" if written.attrs["kind"] == "wald" else f" and {written.attrs['kind']!r} at {written.attrs['level']:g}"
        )
        raise ValueError(
            f"The tree holds no intervals of kind {kind!r} at level={level:g}; it has 'wald' at {wald}{other}. Write it"
            f" with fit.to_datatree(level={level:g}, kind={kind!r})."
        )

    # --- tables and trees ----------------------------------------------------------------------------------

    @checked(level=level)
    def summary(self, level: float = 0.95, kind: str | Sequence[str] = "observed") -> pd.DataFrame:
        """Estimates, standard errors and Wald intervals, one row an entry, as :meth:`pm_mlem.Fit.summary`.

        Parameters
        ----------
        level : float
            As for :meth:`confidence_intervals`.
        kind : {"observed"}
        """
        return summary_table(self, level, kind)

    @property
    def _estimate(self) -> None:
        return None

    @property
    def _summed_out(self) -> str:
        return str(self._tree.attrs.get("summed_out", ""))

    def _note(self, name: str, index: tuple[int, ...], error: float) -> str:
        return str(self._tree["note"][name].values[index])

    def to_datatree(self) -> xr.DataTree:
        """The tree itself."""
        return self._tree

    # --- parts ---------------------------------------------------------------------------------------------

    def _group(self, name: str, **attrs) -> xr.Dataset:
        """A group as the fit had it: without the attributes that all groups share."""
        data = self._tree[name].to_dataset(inherit=False)
        data = data[json.loads(data.attrs["variables"])].assign_coords(data.coords)  # zarr keeps no order
        data.attrs = {**attrs, **{k: v for k, v in data.attrs.items() if k not in SHARED}}
        return data

    def _optional(self, name: str) -> float | None:
        return float(self._tree.attrs[name]) if name in self._tree.attrs else None


SHARED = (
    "inference_library",
    "inference_library_version",
    "pymc_version",
    "estimator",
    "method",
    "status",
    "variables",
)
"""Attributes of all groups, see :func:`pm_mlem.results.datatree.tree_of`."""


def check_kind(kind: str, cluster, small_sample: bool, bootstrap, argument: str = "kind") -> None:
    """Refuse covariances that are not in the tree.

    Raises
    ------
    ValueError
    """
    if kind != "observed":
        raise ValueError(f"{argument}={kind!r} is not in the tree, which holds 'observed'; {REFIT}.")
    if cluster is not None or small_sample or bootstrap is not None:
        raise ValueError(f"cluster=, small_sample= and bootstrap= cannot be used with a saved fit; {REFIT}.")


def from_datatree(tree: xr.DataTree) -> SavedFit:
    """Restore a fit from the tree that :meth:`pm_mlem.Fit.to_datatree` made, for reporting.

    No model and no pickle are needed: the tree may come from a file, written by another version or on another machine.

    Parameters
    ----------
    tree : xarray.DataTree
        Whatever is not in memory yet is read, so that the file may be closed.

    Returns
    -------
    SavedFit
        With the estimates, uncertainty and tables of the fit. What needs the model is refused.

    Raises
    ------
    TypeError
        Something that is no DataTree.
    ValueError
        A tree that holds no fit (posterior draws, say), or only parts of one: the message names what is missing or
        cannot be read.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pm_mlem as mlem
    >>> with pm.Model() as model:
    ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.repeat([1, 0], [60, 40]))
    >>> fit = mlem.fit(model, progressbar=False)
    >>> saved = mlem.from_datatree(fit.to_datatree())
    >>> saved.summary().equals(fit.summary())
    True
    """
    if not isinstance(tree, xr.DataTree):
        raise TypeError(f"from_datatree takes an xarray.DataTree, not {type(tree).__name__}; open a file with "
                        "xarray.open_datatree.")  # fmt: skip
    library = tree.attrs.get("inference_library")
    if library is None and "posterior" in tree.children:
        library = tree["posterior"].attrs.get("inference_library")
    if library != "pm_mlem":
        origin = "says nothing of where it comes from" if library is None else f"comes from {library!r}"
        raise ValueError(
            f"The tree {origin}; from_datatree restores trees of pm_mlem.Fit.to_datatree(). Draws can be compared with "
            "fits as they are: mlem.compare({'fit': fit, 'draws': tree})."
        )
    missing = [name for name in NEEDED if name not in tree.children]
    if missing:
        raise ValueError(
            f"The tree holds no fit (it has no group '{missing[0]}'): it is only a part of one that "
            "pm_mlem.Fit.to_datatree() wrote, or comes from Bootstrap.to_datatree() or sample_posterior_predictive()."
        )
    saved = SavedFit(tree.compute())
    for what, read in READS.items():
        try:
            read(saved)
        except Exception as error:  # whatever is wrong with a file shows in many ways
            raise ValueError(
                f"The tree is damaged: {what} cannot be read ({type(error).__name__}: {error}). Write it again with "
                "fit.to_datatree(), or restore the file from a copy."
            ) from error
    return saved


def check_covariance(saved: SavedFit) -> None:
    """Refuse a tree without the covariance that its number of parameters asks for."""
    missing = saved.n_params and "covariance" not in saved.to_datatree().children
    if missing or saved.covariance(space="unconstrained").shape != (saved.n_params,) * 2:
        raise ValueError(f"there is no covariance of {saved.n_params} parameters")


def check_ladder(saved: SavedFit) -> None:
    """Refuse Wald intervals of other variables than have standard errors."""
    found, expected = saved.confidence_intervals(0.5), saved.standard_errors()
    if set(found.data_vars) != set(expected.data_vars):
        raise ValueError(f"it has {', '.join(map(str, found.data_vars))}")


def check_latents(saved: SavedFit) -> None:
    """Refuse a tree without the probabilities of the latents that were summed out."""
    if saved._summed_out and not saved.latent_probabilities.data_vars:
        raise ValueError(f"there are no probabilities of {saved._summed_out}")


READS: dict[str, Callable[[SavedFit], object]] = {
    **{
        f"the attribute '{name}'": attrgetter(name)
        for name in ("estimator", "method", "message", "seconds", "status", "iterations", "log_likelihood", "log_prior",
                     "log_posterior", "n_params", "n_obs", "n_units", "entropy")
    },
    **{
        f"the group '{group}'": attrgetter(name)
        for name, group in (("estimates", "point_estimate"), ("history", "optimizer_trace"), ("starts", "starts"),
                            ("pointwise_log_likelihood", "pointwise_log_likelihood"))
    },
    "the group 'standard_error'": lambda saved: saved.standard_errors(),
    "the group 'confidence_interval'": lambda saved: saved._group("confidence_interval").attrs["level"],
    "the group 'wald_interval'": check_ladder,
    "the group 'covariance'": check_covariance,
    "the group 'latent_posterior'": check_latents,
    "the summary": lambda saved: (saved.summary(), repr(saved)),
}  # fmt: skip
"""Everything that a saved fit reports."""
NEEDED = (
    "point_estimate", "standard_error", "confidence_interval", "wald_interval", "note", "pointwise_log_likelihood",
    "optimizer_trace", "starts",
)  # fmt: skip
