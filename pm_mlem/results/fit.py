"""The result of a fit: frozen, labelled, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import xarray as xr

from pm_mlem.arguments import checked, flag, labels, level, names, optional, seed, text, values, whole
from pm_mlem.estimate.estimate import Estimate
from pm_mlem.optimize.problem import Status
from pm_mlem.precision import in_double
from pm_mlem.results import datatree, hypothesis_tests, uncertainty
from pm_mlem.results import estimates as labelled
from pm_mlem.results import predict as prediction
from pm_mlem.results.bootstrap import Bootstrap, bootstrap
from pm_mlem.results.influence import influence
from pm_mlem.results.laplace import laplace
from pm_mlem.results.posterior_predictive import sample_posterior_predictive
from pm_mlem.results.profiles import profile_curves
from pm_mlem.results.reported import listed
from pm_mlem.results.saved import from_datatree
from pm_mlem.results.summary import Shown, latents_line, summary_table

if TYPE_CHECKING:
    import pandas as pd

    from pm_mlem.inference.hypotheses import HypothesisTest


@dataclass(frozen=True, eq=False, repr=False)
@in_double
class Fit(Shown):
    """Maximum-likelihood or maximum-a-posteriori estimates of a PyMC model.

    Made by :func:`pm_mlem.fit`. Estimates are in the user's (constrained) space; xarray objects carry the
    model's dims and coords. A fit that is pickled, or comes back from another process, is restored as a
    :class:`pm_mlem.SavedFit`, which reports the same and has no model: a pickle holds what :meth:`to_datatree` writes.

    Attributes
    ----------
    model : pm.Model
        The model that was fitted, unmodified.
    estimator : {"mle", "map"}
    method : str
        What was run, in words.
    message : str
        How the run ended and what to do about it.
    """

    model: pm.Model
    estimator: str
    method: str
    message: str
    seconds: float
    _estimate: Estimate
    _runs: tuple[Mapping[str, Any], ...]

    def __reduce__(self):
        """Pickled as its tree: what comes back, in another process say, is a :class:`pm_mlem.SavedFit`."""
        return from_datatree, (self.to_datatree(random_seed=0),)

    def __copy__(self) -> Fit:
        return self

    def __deepcopy__(self, memo: dict) -> Fit:
        return self  # nothing in it changes

    # --- how it went ---------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """How the run ended."""
        return self._estimate.optimum.status

    @property
    def converged(self) -> bool:
        return self._estimate.optimum.converged

    @property
    def iterations(self) -> int:
        """Iterations of the run that was kept."""
        return self._estimate.optimum.iterations

    @cached_property
    def history(self) -> xr.Dataset:
        """The objective (log-likelihood; log-posterior under "map") at every iteration of the run that was kept."""
        name = "log_likelihood" if self.estimator == "mle" else "log_posterior"
        values = self._estimate.optimum.history
        return xr.Dataset({name: ("iteration", values)}, coords={"iteration": np.arange(len(values))})

    @cached_property
    def start_history(self) -> xr.Dataset:
        """The objective at every iteration of every start, ``(start, iteration)``; NaN after the end of each.

        Starts that were set aside early, or ended where another one had been, have what was run of them.
        """
        [name] = self.history.data_vars
        rows = [np.asarray(run["history"]) for run in self._runs]
        values = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
        for row, own in zip(values, rows, strict=True):
            row[: len(own)] = own
        coords = {"start": np.arange(len(rows)), "iteration": np.arange(values.shape[1])}
        return xr.Dataset({name: (("start", "iteration"), values)}, coords=coords)

    @cached_property
    def starts(self) -> pd.DataFrame:
        """Every start and what became of it.

        Columns: ``start`` (0, 1, ...); ``origin``; the objective where it ended (``log_likelihood``, or
        ``log_posterior`` under "map"); ``iterations``; ``status``; ``optimum``, the number of the distinct optimum that
        it reached (0 the best; the same up to names of states; none where the start was set aside early or ended at a
        degenerate point); ``reached``, how many starts reached that optimum; ``reason`` why it is not acceptable.
        """
        import pandas as pd

        rows = [{column: value for column, value in run.items() if column != "history"} for run in self._runs]
        return pd.DataFrame(rows).astype({"optimum": "Int64"})

    # --- estimates -----------------------------------------------------------------------------------------

    @cached_property
    def estimates(self) -> xr.Dataset:
        """Parameters and Deterministics at the optimum (constrained space).

        A Deterministic that depends on a latent is its posterior mean. Parameters held with ``fixed=`` are
        included at their values. The attribute ``left_out`` names Deterministics that cannot be reported, and why.
        """
        return labelled.parameters_and_deterministics(self._estimate)

    @property
    def _parameters(self) -> frozenset[str]:
        return self._estimate.parameters

    @property
    def log_likelihood(self) -> float:
        """Log p(y | estimates): latents summed out, all constants, observation weights applied, no prior."""
        return self._estimate.log_likelihood

    @property
    def log_prior(self) -> float | None:
        """Density of the parameters' priors at the estimates (constrained space); None under "mle"."""
        return self.log_posterior - self.log_likelihood if self.estimator == "map" else None

    @property
    def log_posterior(self) -> float | None:
        """``log_likelihood + log_prior``, not normalized; None under "mle"."""
        return self._estimate.optimum.value if self.estimator == "map" else None

    @cached_property
    def pointwise_log_likelihood(self) -> xr.Dataset:
        """Log-likelihood of every independent unit at the estimates, latents summed out.

        One variable for each observed variable, with the dims of its rows (or of the rows that share their latents);
        observed variables that share latents or known labels (see ``n_units``) are one, ``a+b``, and Potentials with
        nothing observed go by their name. Observation weights are applied, so that all entries add up to
        ``log_likelihood``.
        """
        return labelled.pointwise_log_likelihood(self._estimate)

    @cached_property
    def latent_probabilities(self) -> xr.Dataset:
        """p(z = k | y, estimates) for each discrete latent; last dimension ``<z>_state``.

        The states carry the labels of the dimension of the latent's probabilities where the model gives it any.
        The component of an observed mixture ``y`` is called ``y_component``.
        """
        return labelled.latent_probabilities(self._estimate)

    # --- sizes and criteria --------------------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        """Free parameters, counted in the unconstrained space (a simplex of K counts K - 1).

        Parameters and entries that are held with ``fixed=`` do not count; parameters on the boundary do.
        """
        return self._estimate.n_params

    @property
    def n_obs(self) -> float:
        """Observations: rows of the data, or the sum of their weights. This is the n of ``aicc``, ``bic`` and ``icl``.

        A row is an entry of an observed variable, or a draw of a distribution of vectors. A series has a row for each
        of its times, whether its states are one chain or variables of a loop; so has an observed Markov chain, random
        walk or autoregression. Observations of one latent element are columns of one row, in an array (the items of a
        latent class) and in several variables; a known label and what it explains are one row, too. In data in long
        format, where ``z[group]`` is read by many rows, each of them counts. The entries of a variable that is a single
        vector (a Gaussian process, a table of counts) count one by one.

        Missing entries and Potentials that are penalties do not count: those that are one number and read no latent, or
        depend on parameters alone. Where weights differ within a row (a dictionary that names the observations but not
        the labels, say) the largest counts. NaN where nothing is observed and the likelihood is a Potential of one
        number. See the guide on testing for what other packages count.
        """
        return self._estimate.n_obs

    @property
    def n_units(self) -> float:
        """Independent units of the data, or the sum of their weights: what sandwich, bootstrap and LOO take one by one.

        Observations that share latents are one unit together: in a mixture a unit is a row, with chains a sequence. A
        label that is known (an observed Categorical or Bernoulli variable, or a discrete chain) and what it explains
        are one, too, so that the number is the same whichever labels are known. An observed loop of states without
        observations that depend on them has a unit for each step. Latents that no data depend on and Potentials that
        are penalties are none.
        """
        return self._estimate.n_units

    @cached_property
    def entropy(self) -> float:
        """Classification entropy: how uncertain the latents are given the data and the estimates, in nats.

        ``-sum_z p(z | y) log p(z | y)`` over all configurations of a unit's latents together, added up over the units
        with their weights; 0 where every unit is certain. For independent labels it is the sum of the entropies of the
        rows of ``latent_probabilities``; for chains it is that of whole sequences, which is smaller. It is the
        difference between the log-likelihood and the expected log-likelihood of the complete data (Hathaway 1986), and
        what ``icl`` adds to ``bic``.

        References
        ----------
        .. [1] Celeux, G. & Soromenho, G. *An entropy criterion for assessing the number of clusters in a mixture
           model*. J. Classification 13 (1996). https://doi.org/10.1007/BF01246098
        """
        return self._estimate.entropy

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
        """Covariance matrix of the estimates.

        Parameters
        ----------
        kind : {"observed", "opg", "sandwich", "bootstrap"}
            "observed": inverse of the observed information, the exact Hessian of the log-likelihood with the latents
            summed out (of the log-posterior under "map"). "opg": inverse of the sum of the outer products of the
            scores of the independent units [1]_ (under "map" together with the curvature of the log-prior).
            "sandwich": ``H^-1 S H^-1`` of the two (HC0), which holds asymptotically where the model is wrong about
            more than what it estimates [2]_ [3]_. "bootstrap": of the replicates of a bootstrap, see
            :meth:`bootstrap`.
        space : {"constrained", "unconstrained"}
            The user's space (by the delta method) or the optimizer's.
        cluster : array or str, optional
            For the sandwich: scores are added up within clusters, which are independent of each other. Labels over the
            observations or their leading axes, or the name of a dim or of a ``pm.Data`` that holds them. Units whose
            observations share a latent belong to one cluster.
        small_sample : bool
            Multiply the sandwich by ``n / (n - p)`` (HC1), with G clusters by ``G / (G - 1) * (n - 1) / (n - p)``;
            n is ``n_obs``.
        bootstrap : Bootstrap, optional
            For "bootstrap": made before by :meth:`bootstrap`. Default: a case bootstrap of 1000 replicates with
            ``random_seed=0``, made once and kept.

        Returns
        -------
        xarray.DataArray
            Dimensions ``parameter`` and ``parameter_bis``, labelled by entry (``mu[a]``); NaN where an entry
            is not identified, on the boundary of its support or runs away to infinity. The others are then those of
            the model in which these entries are known (probabilities at 0: their logarithms). Entries that are held
            with ``fixed=`` are left out.

        Raises
        ------
        ValueError
            An unknown kind, clusters of a wrong shape or a single one, clusters that divide an independent unit.

        Notes
        -----
        Weights are numbers of repetitions: a unit of weight w has its score's outer product w times.

        References
        ----------
        .. [1] Berndt, E., Hall, B., Hall, R. & Hausman, J. *Estimation and inference in nonlinear structural models*.
           Annals of Economic and Social Measurement 3 (1974).
        .. [2] White, H. *Maximum likelihood estimation of misspecified models*. Econometrica 50 (1982).
           https://doi.org/10.2307/1912526
        .. [3] Louis, T. A. *Finding the observed information matrix when using the EM algorithm*. J. R. Statist. Soc. B
           44 (1982). https://doi.org/10.1111/j.2517-6161.1982.tb01203.x
        """
        if kind == "bootstrap":
            return self._replicates(bootstrap, cluster, small_sample).covariance(space)
        uncertainty.check_no_bootstrap(bootstrap, kind)
        return uncertainty.covariance(self._estimate, kind, space, cluster, small_sample)

    @checked(small_sample=flag)
    def standard_errors(
        self, kind: str = "observed", cluster=None, *, small_sample: bool = False, bootstrap: Bootstrap | None = None
    ) -> xr.Dataset:
        """Standard errors of parameters and Deterministics (delta method, constrained space).

        Parameters
        ----------
        kind, cluster, small_sample, bootstrap : as for :meth:`covariance`

        Returns
        -------
        xarray.Dataset
            NaN where an entry is not identified by the data, on the boundary of its support, or held with ``fixed=``,
            and everywhere if the method does not end at a maximum: after ``EM(kind="hard")`` or
            ``EM(kind="stochastic")``, under a penalty, and with a scale on its floor, unless the likelihood has its
            maximum there after all (less than 1e-4 above). See :meth:`summary` for the reason. Where entries are on the
            boundary or at infinity, the others take them as known. A Deterministic of nothing but held entries has 0.
        """
        if kind == "bootstrap":
            return self._replicates(bootstrap, cluster, small_sample).standard_errors()
        uncertainty.check_no_bootstrap(bootstrap, kind)
        return uncertainty.standard_errors(self._estimate, kind, cluster, small_sample)

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
        kind : {"wald", "profile", "bootstrap"}
            "wald": estimate and standard errors, on the unconstrained scale where a parameter's transform acts entry by
            entry, for the log-odds of the entries of a simplex, and on the natural scale for all else; so bounds stay
            inside the support. "profile": all values that a likelihood-ratio test would not reject, where the
            log-likelihood, maximised over everything else, is at most ``chi2(level, 1) / 2`` below its maximum [1]_
            (the log-posterior under "map"). It need not be symmetric and does not depend on how the model is
            parametrised. "bootstrap": quantiles of the replicates; for others see
            :meth:`Bootstrap.confidence_intervals`.
        var_names : sequence of str, optional
            The variables that are wanted, at least one. Default: all; "profile" leaves Deterministics as large as the
            data out.
        covariance, cluster, small_sample
            The covariance that Wald intervals are made of, as in :meth:`covariance`.
        bootstrap : Bootstrap, optional
            As in :meth:`covariance`.

        Returns
        -------
        xarray.Dataset
            NaN for entries that are held, and by "profile" for Deterministics that depend on a latent. Where the
            profile never falls far enough, the bound is the end of the support (0, 1, infinity). The attribute
            ``notes`` says what was peculiar.

        Raises
        ------
        ValueError
            An unknown kind or variable, or a profile of a fit that is not at a maximum.

        Warns
        -----
        LocalOptimaWarning
            A profile leads to a point that is higher than the fit; the bound is NaN.

        References
        ----------
        .. [1] Venzon, D. J. & Moolgavkar, S. H. *A method for computing profile-likelihood-based confidence intervals*.
           Appl. Statist. 37 (1988). https://doi.org/10.2307/2347496

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.ones(10))
        >>> fit = mlem.fit(model, progressbar=False)
        >>> fit.confidence_intervals(kind="profile")["p"].values.round(3)
        array([0.825, 1.   ])
        """
        estimate = self._estimate
        names = None if var_names is None else uncertainty.chosen(estimate, var_names)
        if kind == "bootstrap":
            found = self._replicates(bootstrap, cluster, small_sample).confidence_intervals(level)
            return uncertainty.among(found, estimate, names)
        uncertainty.check_no_bootstrap(bootstrap, kind)
        uncertainty.check_kind(kind, covariance, cluster, small_sample)
        if kind == "wald":
            return uncertainty.wald_intervals(estimate, level, covariance, cluster, small_sample, names)
        if names is None:
            names = [n for n in listed(self) if n in estimate.target.readout.names]
        return uncertainty.profiled_intervals(estimate, level, names)

    @checked(var=text, level=level)
    def profile(self, var: str, level: float = 0.95, points: int | Sequence[float] = 41) -> xr.Dataset:
        """The profile of the log-likelihood (of the log-posterior under "map").

        For each value of one number the largest log-likelihood that the other parameters allow, continued from the
        estimate: where there are several maxima over the others, the one that belongs to it.

        Parameters
        ----------
        var : str
            A parameter, a Deterministic that does not depend on a latent, or an entry, as in ``summary()``: "mu[a]".
        level : float
            The curve reaches a little beyond the interval of this level.
        points : int or sequence of float
            How many, the estimate among them, or the values themselves.

        Returns
        -------
        xarray.Dataset
            Along ``point``: ``value``; ``log_likelihood`` (or ``log_posterior``), NaN where the curve could not be
            followed; ``zeta``, the signed root of the deviance, a straight line where Wald intervals are right [1]_;
            ``wald``, the parabola that Wald intervals are made of, on their scale. Beside these ``interval``, with the
            dimension ``ci_bound``, and ``estimate``. The attribute ``maximum`` is the top of the curve.

        Raises
        ------
        ValueError
            There is no such variable or entry, it is held, depends on a latent or on no parameter, or the fit is not at
            a maximum.

        Warns
        -----
        LocalOptimaWarning
            The profile leads to a point that is higher than the fit.

        References
        ----------
        .. [1] Bates, D. M. & Watts, D. G. *Nonlinear Regression Analysis and Its Applications*. Wiley (1988).
           https://doi.org/10.1002/9780470316757

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=[1, 1, 1, 0])
        >>> curve = mlem.fit(model, progressbar=False).profile("p", points=[0.5, 0.75])
        >>> curve["log_likelihood"].values.round(4)
        array([-2.7726, -2.2493])
        """
        return profile_curves(self._estimate, var, level, points)

    @checked(n=whole(2), random_seed=seed, progressbar=flag)
    def bootstrap(
        self,
        n: int = 1000,
        kind: str = "case",
        random_seed: int | None = None,
        unit=None,
        progressbar: bool = True,
    ) -> Bootstrap:
        """Refit the model to resampled or simulated data, many times.

        Every refit starts at the estimates and is made by one compiled function. The states of discrete latents are
        brought into the order of the fit.

        Parameters
        ----------
        n : int
            Number of replicates.
        kind : {"case", "parametric", "bayesian"}
            "case": independent units are drawn with replacement [1]_; whole weights are numbers of repetitions, of
            which as many are drawn as there are, fractional ones stay with their units. "bayesian": units have weights
            from a Dirichlet distribution instead [2]_, so none is ever absent. "parametric": data are simulated from
            the fitted model, the latents included [3]_; masked entries stay masked.
        random_seed : int or None
            With the same seed the first replicates are the same whatever their number.
        unit : array or str, optional
            Clusters of observations that are drawn together: labels over the observations or their leading axes, or
            the name of a dim or of a ``pm.Data`` that holds them.
        progressbar : bool

        Returns
        -------
        Bootstrap

        Raises
        ------
        ValueError
            Fewer than two replicates, an unknown kind, a single unit or cluster, labels of a wrong length, a model from
            which no data can be simulated.
        NotIdentifiedError
            The states of a latent cannot be told apart in many replicates, or hardly any replicate has a maximum.

        References
        ----------
        .. [1] Efron, B. *Bootstrap methods: another look at the jackknife*. Ann. Stat. 7 (1979).
           https://doi.org/10.1214/aos/1176344552
        .. [2] Rubin, D. B. *The Bayesian bootstrap*. Ann. Stat. 9 (1981). https://doi.org/10.1214/aos/1176345338
        .. [3] Efron, B. & Tibshirani, R. J. *An Introduction to the Bootstrap*. Chapman & Hall (1993).

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.repeat([1, 0], [60, 40]))
        >>> fit = mlem.fit(model, progressbar=False)
        >>> error = fit.bootstrap(200, random_seed=1, progressbar=False).standard_errors()["p"].item()
        >>> bool(abs(error - np.sqrt(0.6 * 0.4 / 100)) < 0.01)
        True
        """
        return bootstrap(self, n, kind, random_seed, unit, progressbar)

    @cached_property
    def _bootstrap(self) -> Bootstrap:
        """What ``kind="bootstrap"`` uses where no other is passed."""
        return self.bootstrap(random_seed=0, progressbar=False)

    def _replicates(self, given: Bootstrap | None, cluster, small_sample: bool) -> Bootstrap:
        """The bootstrap that was passed, or the fit's own."""
        uncertainty.check_bootstrap(self, given, cluster, small_sample)
        return self._bootstrap if given is None else given

    # --- tables --------------------------------------------------------------------------------------------

    @checked(level=level)
    def summary(self, level: float = 0.95, kind: str | Sequence[str] = "observed") -> pd.DataFrame:
        """Estimates, standard errors and Wald intervals, one row an entry (named as ``az.summary`` does).

        Columns ``estimate``, ``se``, ``ci_lb``, ``ci_ub``, ``note``; the note says why a standard error is missing.
        Deterministics as large as the data are left out (they are in ``estimates``).

        Parameters
        ----------
        level : float
        kind : str or sequence of str
            As for :meth:`covariance`. Several kinds stand side by side, ``se_observed``, ``se_sandwich``; intervals
            and notes are those of the first.
        """
        return summary_table(self, level, kind)

    @property
    def _summed_out(self) -> str:
        return latents_line(self._estimate.target.structure)

    def _note(self, name: str, index: tuple[int, ...], error: float) -> str:
        return self._estimate.note(name, index, error)

    # --- tests and influence --------------------------------------------------------------------------------

    @checked(small_sample=flag)
    def wald_test(
        self, hypotheses, kind: str = "observed", cluster=None, *, small_sample: bool = False
    ) -> HypothesisTest:
        """Test equations between the estimates by their covariance (Wald 1943).

        Parameters
        ----------
        hypotheses : str, sequence of str, or dict
            Equations in the names of :meth:`summary`, parameters and Deterministics: ``"mu[a] = mu[b]"``,
            ``"beta = 0"`` (all entries), ``"2 * a - b = 1"``, ``"log(odds) = 0"``; several are tested jointly. A
            dictionary ``{name: value}`` holds one equation for each name.
        kind, cluster, small_sample : as for :meth:`covariance`

        Returns
        -------
        HypothesisTest
            ``h' (G V G')^-1 h`` for the differences h of the two sides and their derivatives G (delta method), by the
            chi-square distribution with as many degrees of freedom as equations.

        Raises
        ------
        ValueError
            An unknown name, estimates without standard errors, equations that depend on each other.

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model(coords={"arm": ["a", "b"]}) as model:
        ...     p = pm.Beta("p", 1, 1, dims="arm")
        ...     healed = pm.Binomial("healed", 50, p, observed=[30, 20])
        >>> mlem.fit(model, progressbar=False).wald_test("p[a] = p[b]")
        Wald test of p[a] = p[b]: statistic 4.167, df 1, p-value 0.04123
        """
        replicated = None
        if kind == "bootstrap":
            replicated = self.covariance(kind, "unconstrained", cluster, small_sample=small_sample)
        return hypothesis_tests.wald_test(self._estimate, hypotheses, kind, cluster, small_sample, replicated)

    @checked(release=optional(names))
    def score_test(self, release: str | Sequence[str] | None = None, *, kind: str = "observed") -> HypothesisTest:
        """Test what ``fixed=`` holds, without fitting the larger model (Rao 1948).

        Parameters
        ----------
        release : str or sequence of str, optional
            Keys of ``fixed=`` that are tested; the others stay held. Default: all.
        kind : {"observed", "opg"}
            The information: minus the Hessian of the larger model at these estimates, or the outer product of its
            scores.

        Returns
        -------
        HypothesisTest
            ``S' I^-1 S`` with the score S of the larger model at these estimates, by the chi-square distribution with
            as many degrees of freedom as parameters are released.

        Raises
        ------
        ValueError
            Nothing is held, the held values are on the boundary of the parameter space, an information that is not
            positive definite, estimator "map".

        References
        ----------
        .. [1] Rao, C. R. *Large sample tests of statistical hypotheses concerning several parameters with applications
           to problems of estimation*. Proc. Camb. Phil. Soc. 44 (1948). https://doi.org/10.1017/S0305004100023987
        """
        return hypothesis_tests.score_test(self._estimate, release, kind)

    @checked()
    def information_matrix_test(self, elements: str = "all") -> HypothesisTest:
        """A hint at misspecification: whether curvature and variability of the scores agree (White 1982).

        Under a correct model the observed information and the outer product of the scores estimate the same matrix.
        The statistic compares them, as ``n R^2`` of an auxiliary regression on scores and second derivatives by unit
        [2]_ [3]_; it rejects too often in small samples.

        Parameters
        ----------
        elements : {"all", "diagonal"}
            What is compared. Elements that depend on others do not count.

        Returns
        -------
        HypothesisTest
            Its ``table`` has the standard errors by curvature, outer product and sandwich, and the ratios of the last
            two to the first.

        Raises
        ------
        ValueError
            Too few independent units, estimates that are no maximum of the likelihood, a model whose curvature and
            scores cannot disagree, estimator "map", a backend without second derivatives by unit.

        Notes
        -----
        Entries on the boundary of their support, or at infinity, are taken as known.

        References
        ----------
        .. [1] White, H. *Maximum likelihood estimation of misspecified models*. Econometrica 50 (1982).
           https://doi.org/10.2307/1912526
        .. [2] Chesher, A. *The information matrix test*. Economics Letters 13 (1983).
        .. [3] Lancaster, T. *The covariance matrix of the information matrix test*. Econometrica 52 (1984).
        """
        test = hypothesis_tests.information_matrix_test(self._estimate, elements)
        return replace(test, table=hypothesis_tests.ratios(self.summary(kind=["observed", "opg", "sandwich"])))

    @checked()
    def influence(self) -> xr.Dataset:
        """By how much every independent unit moves the estimates (infinitesimal jackknife).

        Returns
        -------
        xarray.Dataset
            For each parameter, estimate minus the estimate without the unit, to first order: the score of the unit
            times its weight and the inverse information. Dimensions are those of ``pointwise_log_likelihood`` followed
            by those of the parameter. ``cooks_distance``: the squared length of the unit's movement of all parameters
            in standard errors, divided by their number (Cook 1977; Pregibon 1981). Where there are several groups of
            units, or dimensions that parameters share with them, all units are along ``unit``.

        Raises
        ------
        ValueError
            There is only one unit.

        Notes
        -----
        Parameters without standard errors are NaN. The largest: ``influence()["cooks_distance"].to_series()
        .nlargest(5)``.

        References
        ----------
        .. [1] Pregibon, D. *Logistic regression diagnostics*. Annals of Statistics 9 (1981).
           https://doi.org/10.1214/aos/1176345513
        """
        return influence(self._estimate)

    # --- ArviZ ---------------------------------------------------------------------------------------------

    @checked(draws=whole(1), chains=whole(1), random_seed=seed, level=level, log_likelihood=optional(flag))
    def to_datatree(
        self,
        draws: int = 1000,
        chains: int = 4,
        random_seed: int | None = None,
        *,
        level: float = 0.95,
        kind: str = "wald",
        bootstrap: Bootstrap | None = None,
        log_likelihood: bool | None = None,
    ) -> xr.DataTree:
        """The fit as an ``xarray.DataTree``, for ArviZ and for files.

        Parameters
        ----------
        draws, chains : int
            Size of the ``posterior`` group; with ``bootstrap=`` there is one chain with its replicates.
        random_seed : int or None
        level, kind
            Of the group ``confidence_interval``, as for :meth:`confidence_intervals`.
        bootstrap : Bootstrap, optional
            Replicates made before by :meth:`bootstrap`, to be the draws (and with ``kind="bootstrap"`` the intervals).
        log_likelihood : bool, optional
            Whether the log-likelihood of every unit is computed at every draw, for ``az.loo`` and ``az.compare``.
            Default: where that takes no more than 20 million numbers (draws times entries of a log-density).

        Returns
        -------
        xarray.DataTree
            For ArviZ: ``posterior``, draws (chain, draw) from the normal approximation of the estimator's sampling
            distribution, made in the unconstrained space, or replicates of a bootstrap; its attribute
            ``approximation`` says which. Of parameters and Deterministics of up to 100 entries. ``log_likelihood``, of
            the independent units at these draws. ``sample_stats``: ``log_p``, the objective at the draws, and
            ``log_q``, the log-density of the normal approximation, for ``az.loo_approximate_posterior``.
            ``observed_data``, ``constant_data``.

            At the estimates: ``point_estimate``; ``standard_error``; ``confidence_interval`` (dimension ``ci_bound``);
            ``wald_interval`` at several levels; ``note`` of the summary; ``covariance``; ``latent_posterior``;
            ``pointwise_log_likelihood``; ``optimizer_trace``; ``starts``. :func:`pm_mlem.from_datatree` reads them.

            Attributes: where the tree comes from, and the numbers of a report (``log_likelihood``, ``n_params``,
            ``aic``, ...), all of them strings and numbers. ``left_out`` says which groups are missing and why: there
            are no draws where the estimator has no normal approximation.

        Raises
        ------
        ValueError
            A wrong level, kind or number, the bootstrap of another fit.

        Examples
        --------
        >>> import numpy as np, arviz as az, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.repeat([1, 0], [60, 40]))
        >>> tree = mlem.fit(model, progressbar=False).to_datatree(random_seed=1)
        >>> round(float(az.loo(tree).p), 1)  # effective number of parameters
        1.0
        """
        replicates = None if bootstrap is None else self._replicates(bootstrap, None, False).draws
        intervals = self.confidence_intervals(level, kind, bootstrap=bootstrap if kind == "bootstrap" else None)
        return datatree.to_datatree(self, draws, chains, random_seed, intervals, replicates, log_likelihood)

    @checked(draws=whole(1), chains=whole(1), random_seed=seed, var_names=optional(names), data=optional(values),
             coords=optional(labels))  # fmt: skip
    def sample_posterior_predictive(
        self,
        draws: int = 250,
        chains: int = 4,
        random_seed: int | None = None,
        *,
        parameters: str = "draws",
        var_names: Sequence[str] | None = None,
        bootstrap: Bootstrap | None = None,
        data: Mapping[str, Any] | None = None,
        coords: Mapping[str, Sequence] | None = None,
    ) -> xr.DataTree:
        """Draw new data from the fitted model, latents included.

        Parameters
        ----------
        draws, chains : int
            How many data sets: ``draws`` in each chain. With ``bootstrap=`` one for each replicate.
        random_seed : int or None
        parameters : {"draws", "estimates"}
            "draws": each data set has parameters of its own, drawn from the estimator's sampling distribution (its
            normal approximation, or ``bootstrap=``), so that the predictions are as uncertain as the estimates are.
            "estimates": all have the estimates ("plug-in").
        var_names : sequence of str, optional
            What is drawn. Default: the observed variables. Latents are drawn from their distribution, not given the
            data (:attr:`latent_probabilities` are); Deterministics are those of the drawn latents.
        bootstrap : Bootstrap, optional
            Replicates made before by :meth:`bootstrap`.
        data, coords : dict, optional
            New values of the model's ``pm.Data`` and labels, as for :meth:`predict`, to draw data at these.

        Returns
        -------
        xarray.DataTree
            ``posterior_predictive`` (dimensions ``chain``, ``draw`` and those of the model), ``posterior`` with the
            parameters of each data set, ``observed_data`` and ``constant_data``, ready for ``az.plot_ppc_dist``. With
            new ``data`` they are in ``predictions`` and ``predictions_constant_data``. Of masked data the entries that
            were observed.

        Raises
        ------
        NotIdentifiedError
            The estimator has no normal approximation; ``parameters="estimates"`` needs none.
        ValueError
            Potentials or distributions that cannot be drawn from, an unknown name.

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     y = pm.Normal("y", pm.Normal("mu"), 1.0, observed=[1.0, 2.0, 3.0])
        >>> fit = mlem.fit(model, progressbar=False)
        >>> new = fit.sample_posterior_predictive(1000, random_seed=1)["posterior_predictive"]["y"]
        >>> new.sizes
        Frozen({'chain': 4, 'draw': 1000, 'y_dim_0': 3})
        >>> round(float(new.std()), 1)  # sqrt(1 + 1 / 3): of an observation, and of the estimate
        1.2
        """
        replicates = None if bootstrap is None else self._replicates(bootstrap, None, False).draws
        return sample_posterior_predictive(
            self, draws, chains, random_seed, parameters, var_names, replicates, data, coords
        )

    @checked(draws=whole(1), random_seed=seed, resample=flag)
    def laplace(self, draws: int = 1000, random_seed: int | None = None, *, resample: bool = False) -> xr.DataTree:
        """Normal approximation of the posterior, and whether it is good enough.

        The posterior is that of the whole model with its priors, latents summed out, whatever the estimator of the fit
        was. It is approximated in the unconstrained space, where its density includes the Jacobian of the transforms:
        from the fit a few Newton steps lead to the mode of that density, and the curvature there is the inverse
        covariance. The mode differs from the estimates of a "map" fit, which maximise the density in the constrained
        space. How well the normal distribution fits is judged by the importance ratios of its draws, exact posterior
        density over normal density: the shape k of their largest ones (Pareto smoothed importance sampling [1]_ [2]_).
        Other modes, such as those with the states of a latent renamed, are not looked for, and k does not see them.

        Parameters
        ----------
        draws : int
        random_seed : int or None
        resample : bool
            Draw from the draws with replacement, with the smoothed importance ratios as weights. The result is closer
            to the posterior where k allows it, and has ties.

        Returns
        -------
        xarray.DataTree
            ``posterior`` (one chain): draws of the parameters (constrained space), of the latents given these, and
            Deterministics, under the names, dims and coords of the model. Its attributes ``pareto_k``, ``good_k`` (the
            largest k with which weighted draws are reliable, ``min(1 - 1 / log10(draws), 0.7)``) and ``message`` say
            how good the approximation is: k below 0.5 is close, below ``good_k`` usable with weights or
            ``resample=True``, above it is not to be trusted.
            ``sample_stats``: ``lp``, the exact log-density (unconstrained space, not normalized); ``log_q``, that of
            the normal distribution; ``log_weight``, smoothed and normalized, left out after resampling.
            ``approximation``: ``mean`` and ``covariance`` of the normal distribution (unconstrained space).
            ``latent_posterior``, ``observed_data``, ``constant_data``: as from :func:`pm_mlem.sample`.

        Raises
        ------
        ValueError
            Fewer than 100 draws, a fit with ``weights=``.
        NotIdentifiedError
            No mode of the posterior is near the fit.

        References
        ----------
        .. [1] Vehtari, A., Simpson, D., Gelman, A., Yao, Y. & Gabry, J. *Pareto smoothed importance sampling*. J. Mach.
           Learn. Res. 25 (2024). https://doi.org/10.48550/arXiv.1507.02646
        .. [2] Yao, Y., Vehtari, A., Simpson, D. & Gelman, A. *Yes, but did it work? Evaluating variational inference*.
           ICML (2018). https://doi.org/10.48550/arXiv.1802.02538

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=np.repeat([1, 0], [60, 40]))
        >>> tree = mlem.fit(model, progressbar=False).laplace(random_seed=1)
        >>> bool(tree["posterior"].attrs["pareto_k"] < 0.5)
        True
        """
        return laplace(self, draws, random_seed, resample)

    # --- latents and new data ------------------------------------------------------------------------------

    @checked()
    def decode(self) -> xr.Dataset:
        """The jointly most probable states of all discrete latents given the data and the estimates.

        Maxima take the place of sums over the states (max-product; on chains the algorithm of Viterbi 1967). The most
        probable configuration need not consist of the most probable states of ``latent_probabilities``: it is one that
        can occur as a whole. Of several equally probable ones it is the first, by the order of the states.

        Returns
        -------
        xarray.Dataset
            For each latent its states, integers like those of the model's variable, with the dims of the variable; the
            component of an observed mixture ``y`` is called ``y_component``. For each group of observed variables that
            share latents (``y``, or ``a+b``) ``<group>_log_probability``: the log-probability
            of the states of each unit together, ``log p(z | y)``. The attribute ``log_probability`` is that of all
            latents, without the units of weight 0; weights do not matter otherwise.

        References
        ----------
        .. [1] Viterbi, A. J. *Error bounds for convolutional codes and an asymptotically optimum decoding algorithm*.
           IEEE Trans. Inf. Theory 13 (1967). https://doi.org/10.1109/TIT.1967.1054010
        """
        return labelled.decoded_states(self._estimate)

    @checked(data=optional(values), coords=optional(labels))
    def predict(
        self, data: Mapping[str, Any] | None = None, coords: Mapping[str, Sequence] | None = None
    ) -> xr.DataTree:
        """Fitted means of the observed variables, and their latents, at the model's data or at new ones.

        Parameters
        ----------
        data : dict, optional
            New values by name of the ``pm.Data``, as for ``pm.set_data``; lengths may change. Data that are not named
            stay as they are. Observed variables whose values are not among ``data`` count as **unknown**: they are
            predicted from everything else and tell nothing about the latents. Default: the data of the fit, all
            observed variables known.
        coords : dict, optional
            New labels of dimensions that have labels and change their length.

        Returns
        -------
        xarray.DataTree
            ``predictions``: the mean of each observed variable given the data and the estimates; the probabilities of
            the states of a Categorical, along ``<y>_state``. Discrete latents are averaged over with their posterior
            given the known variables, or with their distribution where nothing is known about them. An unknown variable
            without dims has length 1 along axes along which its parameters do not vary. Variables without a mean are
            listed in the attribute ``left_out``.
            ``deterministics``: as in ``estimates``. ``latent_posterior``: as ``latent_probabilities``.
            ``latent_states``: as ``decode()``. Groups without content are left out.

        Raises
        ------
        ValueError
            A name that is no ``pm.Data``, values of a wrong shape, unknown values that another variable depends on.

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     x = pm.Data("x", [0.0, 1.0, 2.0])
        ...     slope = pm.Normal("slope")
        ...     y = pm.Normal("y", slope * x, 1, observed=pm.Data("y_data", [0.1, 1.9, 4.1]))
        >>> fit = mlem.fit(model, progressbar=False)
        >>> fit.predict({"x": [10.0]})["predictions"]["y"].values.round(2)
        array([20.2])
        """
        return prediction.predict(self._estimate, data, coords)

    @checked(data=values, coords=optional(labels))
    def score(self, data: Mapping[str, Any], coords: Mapping[str, Sequence] | None = None) -> float:
        """Log-likelihood of new values of the model's ``pm.Data`` at the estimates, without weights.

        Parameters
        ----------
        data : dict
            New values by name of the ``pm.Data``, the observations included, as for ``pm.set_data``; lengths may
            change. Data that are not named stay as they are. The model is given its own data back.
        coords : dict, optional
            New labels of dimensions that have labels and change their length.

        Raises
        ------
        ValueError
            A name that is no ``pm.Data``, values of a wrong shape, or a model without ``pm.Data``.

        Examples
        --------
        >>> import numpy as np, pymc as pm, pm_mlem as mlem
        >>> with pm.Model() as model:
        ...     flips = pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=pm.Data("data", [1, 0, 1, 1]))
        >>> fit = mlem.fit(model, progressbar=False)
        >>> round(float(np.exp(fit.score({"data": [1, 1]}))), 4)  # 0.75 squared
        0.5625
        """
        return prediction.score(self._estimate, data, coords)
