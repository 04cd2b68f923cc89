"""One table of several methods."""

import pickle

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr

import pm_mlem as mlem
from pm_mlem.demo import old_faithful, waiting_times

pytestmark = pytest.mark.compiled


@pytest.fixture(scope="module")
def nuts(faithful, faithful_map):
    """A posterior of the marginal model, with its log-likelihood, laid out as ``pm.sample`` does it.

    The draws are those of the Laplace approximation: compiling for NUTS takes 20 seconds.
    """
    drawn = faithful_map.laplace(300, random_seed=1)["posterior"].to_dataset()[["w", "mu", "sigma"]]
    halves = [drawn.isel(chain=0, draw=slice(150 * i, 150 * (i + 1))).assign_coords(draw=range(150)) for i in (0, 1)]
    posterior = xr.concat(halves, "chain").assign_coords(chain=[0, 1])
    tree = xr.DataTree.from_dict({"posterior": posterior.assign_attrs(sampling_time=1.5)})
    with mlem.marginalize(faithful):
        pm.compute_log_likelihood(tree, progressbar=False)
    return tree


@pytest.fixture(scope="module")
def switched(nuts):
    """The same posterior with the states exchanged in every third draw."""
    change = xr.DataArray(np.arange(150) % 3 == 0, dims="draw")
    posterior = nuts["posterior"].to_dataset()
    exchanged = posterior.isel(kind=[1, 0]).assign_coords(kind=posterior["kind"])
    groups = {**nuts.to_dict(), "/posterior": posterior.where(~change, exchanged).assign_attrs(posterior.attrs)}
    return xr.DataTree.from_dict(groups)


@pytest.fixture(scope="module")
def table(faithful_fit, faithful_map, nuts):
    return mlem.compare({"MLE": faithful_fit, "MAP": faithful_map, "NUTS": nuts})


def test_fits_and_draws_side_by_side(faithful_fit, faithful_map):
    draws = faithful_fit.to_datatree(draws=2000, random_seed=0)
    table = mlem.compare({"MLE": faithful_fit, "MAP": faithful_map, "draws": draws})
    assert list(table.columns.get_level_values(0).unique()) == ["MLE", "MAP", "draws"]
    assert list(table["MLE"].columns) == ["estimate", "se", "ci_lb", "ci_ub", "shift"]
    assert list(table.index) == list(faithful_fit.summary().index)
    np.testing.assert_allclose(table["MLE"]["estimate"], faithful_fit.summary()["estimate"])
    np.testing.assert_allclose(table["draws"]["estimate"], table["MLE"]["estimate"], rtol=0.02)
    np.testing.assert_allclose(table["draws"]["ci_ub"], table["MLE"]["ci_ub"], rtol=0.03)


def test_level_and_names(faithful_fit):
    narrow = mlem.compare({"MLE": faithful_fit}, level=0.5, var_names=["mu"])
    assert list(narrow.index) == ["mu[short]", "mu[long]"]
    wide = mlem.compare({"MLE": faithful_fit}, var_names=["mu"])
    assert (narrow["MLE"]["ci_ub"] < wide["MLE"]["ci_ub"]).all()


def test_shifts_are_in_standard_errors_of_the_reference(table, faithful_fit, faithful_map, nuts):
    assert table.attrs["reference"] == "NUTS"
    mean, sd = table["NUTS"]["estimate"], table["NUTS"]["se"]
    np.testing.assert_allclose(table["MLE"]["shift"], (table["MLE"]["estimate"] - mean) / sd)
    np.testing.assert_array_equal(table["NUTS"]["shift"], 0.0)
    other = mlem.compare({"MLE": faithful_fit, "MAP": faithful_map}, reference="MAP")
    np.testing.assert_array_equal(other["MAP"]["shift"], 0.0)
    expected = (faithful_fit.estimates["mu"] - faithful_map.estimates["mu"]) / faithful_map.standard_errors()["mu"]
    np.testing.assert_allclose(other["MLE"]["shift"][["mu[short]", "mu[long]"]], expected)
    assert mlem.compare({"MLE": faithful_fit, "MAP": faithful_map}).attrs["reference"] == "MLE"


def test_kinds_of_intervals(faithful_fit, nuts):
    import arviz as az

    kinds = {"MLE": "profile", "NUTS": "hdi"}
    table = mlem.compare({"MLE": faithful_fit, "NUTS": nuts}, kind=kinds, var_names=["mu"], level=0.9)
    assert table.attrs["kinds"] == kinds
    profile = faithful_fit.confidence_intervals(0.9, "profile", var_names=["mu"])["mu"]
    np.testing.assert_allclose(table["MLE"][["ci_lb", "ci_ub"]], profile)
    np.testing.assert_allclose(table["NUTS"][["ci_lb", "ci_ub"]], az.hdi(nuts, prob=0.9)["mu"])
    assert set(table.tidy()["kind"]) == {"profile", "hdi"}
    plain = mlem.compare({"MLE": faithful_fit, "NUTS": nuts}, kind="wald", var_names=["mu"])
    assert plain.attrs["kinds"] == {"MLE": "wald", "NUTS": "eti"}
    quantiles = nuts["posterior"]["mu"].quantile([0.025, 0.975], ["chain", "draw"])
    np.testing.assert_allclose(plain["NUTS"][["ci_lb", "ci_ub"]].T, quantiles)


def test_tidy_has_one_row_for_each_entry_and_method(table):
    tidy = table.tidy()
    columns = ["variable", "entry", "method", "estimate", "se", "ci_lb", "ci_ub", "kind", "shift", "note"]
    assert list(tidy.columns) == columns
    assert len(tidy) == 6 * 3
    assert set(tidy["variable"]) == {"w", "mu", "sigma"}
    back = tidy.pivot(index="entry", columns="method", values="ci_ub").loc[table.index]
    np.testing.assert_array_equal(back["MAP"], table["MAP"]["ci_ub"])
    tidy["estimate"] = 0.0
    assert (table.tidy()["estimate"] != 0).all()


def test_datatree_has_the_coords_of_the_model(table, faithful_fit):
    tree = table.to_datatree()
    assert set(tree.children) == {"point_estimate", "standard_error", "confidence_interval", "shift"}
    point = tree["point_estimate"]["mu"]
    assert point.dims == ("model", "kind")
    np.testing.assert_array_equal(point.sel(model="MLE"), faithful_fit.estimates["mu"])
    for method in table.columns.get_level_values(0).unique():
        rows = table[method].loc[["mu[short]", "mu[long]"]]
        np.testing.assert_allclose(tree["shift"]["mu"].sel(model=method), rows["shift"])
        np.testing.assert_allclose(tree["standard_error"]["mu"].sel(model=method), rows["se"])
        bounds = tree["confidence_interval"]["mu"].sel(model=method)
        np.testing.assert_allclose(bounds.transpose("kind", "ci_bound"), rows[["ci_lb", "ci_ub"]])
    assert tree.attrs["reference"] == "NUTS"


def test_criteria_stay_apart(table, faithful_fit, nuts):
    import arviz as az

    fits, draws = table.criteria.fits, table.criteria.draws
    assert list(fits.index) == ["MLE", "MAP"] and list(draws.index) == ["NUTS"]
    for name in ("log_likelihood", "n_params", "n_obs", "aic", "bic", "icl", "seconds"):
        assert fits.loc["MLE", name] == getattr(faithful_fit, name)
    found = az.loo(nuts)
    assert draws.loc["NUTS", "elpd_loo"] == pytest.approx(found.elpd)
    assert draws.loc["NUTS", "se"] == pytest.approx(found.se)
    assert draws.loc["NUTS", "n"] == 272 and draws.loc["NUTS", "high_k"] == 0
    assert draws.loc["NUTS", "seconds"] == nuts["posterior"].attrs["sampling_time"]
    assert "elpd_loo" not in fits and "aic" not in draws
    assert "Fits" in repr(table.criteria) and "Draws" in repr(table.criteria)


def test_draws_without_log_likelihood(faithful_fit):
    tree = faithful_fit.to_datatree(draws=20, random_seed=1, log_likelihood=False)
    criteria = mlem.compare({"MLE": faithful_fit, "draws": tree}).criteria
    assert np.isnan(criteria.draws.loc["draws", "elpd_loo"])
    assert any("'draws' has no log-likelihood by draw" in note for note in criteria.notes)


def test_the_elpd_of_drawn_labels_is_marked(faithful_fit, nuts):
    labelled = nuts.copy()
    labels = np.zeros((2, 150, 272), dtype=int)
    posterior = nuts["posterior"].to_dataset().assign(z=(("chain", "draw", "z_dim_0"), labels))
    labelled["posterior"] = xr.DataTree(posterior)
    criteria = mlem.compare({"MLE": faithful_fit, "Gibbs": labelled}, var_names=["mu"]).criteria
    assert any("'Gibbs' takes the drawn labels ('z') as known" in note for note in criteria.notes)
    labelled["log_likelihood"].attrs["latents"] = "summed out"  # as in what mlem.sample returns
    criteria = mlem.compare({"MLE": faithful_fit, "NUTS": labelled}, var_names=["mu"]).criteria
    assert not any("as known" in note for note in criteria.notes)
    assert "z" not in mlem.compare({"MLE": faithful_fit, "Gibbs": labelled}).tidy()["variable"].unique()


def test_it_is_a_data_frame(table, faithful_fit):
    assert isinstance(table, pd.DataFrame) and isinstance(table, mlem.Comparison)
    assert type(table["MLE"]) is pd.DataFrame and type(table.round(2)) is pd.DataFrame
    estimates = table.xs("estimate", axis=1, level=1)
    assert list(estimates.columns) == ["MLE", "MAP", "NUTS"]
    back = pickle.loads(pickle.dumps(table))
    pd.testing.assert_frame_equal(pd.DataFrame(back), pd.DataFrame(table))
    pd.testing.assert_frame_equal(back.criteria.fits, table.criteria.fits)
    pd.testing.assert_frame_equal(back.tidy(), table.tidy())
    assert back.notes == table.notes


def test_text_html_and_latex(table, faithful_fit):
    text = repr(table)
    for piece in ("95 % intervals (MLE wald, MAP wald, NUTS eti)", "shifts from NUTS", "elpd_loo", "-1034.00"):
        assert piece in text
    html = mlem.compare({"<b>a & b": faithful_fit})._repr_html_()
    assert html.count("<table") == 2 and "mu[long]" in html
    assert "<b>a" not in html and "&lt;b&gt;a &amp; b" in html
    latex = mlem.compare({"a_b": faithful_fit}).to_latex()
    assert r"a\_b" in latex and r"\toprule" in latex and "54.61" in latex


# --- states in one order ----------------------------------------------------------------------------------


def test_draws_are_aligned_first(faithful_fit, nuts, switched):
    table = mlem.compare({"MLE": faithful_fit, "NUTS": nuts, "switched": switched})
    np.testing.assert_allclose(table["switched"].drop(columns="shift"), table["NUTS"].drop(columns="shift"))
    assert any("100 of 300 draws of 'switched' were relabelled to the states of 'MLE'" in n for n in table.notes)
    raw = mlem.compare({"MLE": faithful_fit, "switched": switched}, align=False)
    assert abs(raw["switched"].loc["mu[short]", "estimate"] - 63) < 1 and not raw.notes
    alone = mlem.compare({"switched": switched})  # nothing to align with
    assert alone["switched"].loc["mu[short]", "estimate"] == raw["switched"].loc["mu[short]", "estimate"]


def test_fits_are_aligned_too(faithful, faithful_fit):
    start = {"w": [0.6, 0.4], "mu": [80.0, 55.0], "sigma": [6.0, 6.0]}
    other = mlem.fit(faithful, method="em", starts=[start], progressbar=False)
    assert other.estimates["mu"][0] > other.estimates["mu"][1]
    table = mlem.compare({"MLE": faithful_fit, "EM": other})
    np.testing.assert_allclose(table["EM"], table["MLE"], rtol=1e-3, atol=1e-3)
    assert any("'EM' were renamed to those of 'MLE'" in note for note in table.notes)
    apart = mlem.compare({"MLE": faithful_fit, "EM": other}, align=False)
    np.testing.assert_array_equal(apart["EM"]["estimate"][["mu[short]", "mu[long]"]], other.estimates["mu"])


def test_a_map_fit_whose_priors_order_the_states(faithful_fit):
    with pm.Model(coords={"kind": ["short", "long"]}) as model:
        w = pm.Dirichlet("w", np.ones(2), dims="kind")
        mu = pm.Normal("mu", [90, 50], 5, dims="kind")
        sigma = pm.HalfNormal("sigma", 10, dims="kind")
        z = pm.Categorical("z", w, shape=272)
        pm.Normal("waiting", mu[z], sigma[z], observed=waiting_times())
    other = mlem.fit(model, "map", random_seed=1, progressbar=False)
    table = mlem.compare({"MLE": faithful_fit, "MAP": other})
    assert any("'MAP' have another order" in note and "cannot be renamed" in note for note in table.notes)
    np.testing.assert_array_equal(table["MAP"]["estimate"][["mu[short]", "mu[long]"]], other.estimates["mu"])


def test_ambiguous_draws_are_refused(faithful_fit, nuts):
    posterior = nuts["posterior"].to_dataset().isel(draw=slice(4))
    same = posterior.map(lambda a: a.mean("kind").expand_dims(kind=a["kind"], axis=-1))
    tree = xr.DataTree.from_dict({"/posterior": same})
    with pytest.raises(mlem.NotIdentifiedError, match=r"'NUTS' cannot be aligned with 'MLE'.*align=False"):
        mlem.compare({"MLE": faithful_fit, "NUTS": tree})
    assert len(mlem.compare({"MLE": faithful_fit, "NUTS": tree}, align=False)) == 6


# --- what is missing or different -------------------------------------------------------------------------


def coin(values, **kw):
    with pm.Model() as model:
        pm.Bernoulli("flips", pm.Beta("p", 1, 1), observed=values)
    return mlem.fit(model, progressbar=False, **kw)


def test_different_data_are_refused():
    a, b, c = coin([1, 1, 0, 0]), coin([1, 1, 1, 0]), coin([1, 1, 0, 0, 1])
    with pytest.raises(ValueError, match=r"'a' and 'b' were given different data.*'flips' differs \(1 of 4 values"):
        mlem.compare({"a": a, "b": b})
    with pytest.raises(ValueError, match=r"'flips' differs \(shapes \(4,\) and \(5,\)\)"):
        mlem.compare({"a": a, "c": c})
    with pytest.raises(ValueError, match="'a' and 'draws' were given different data"):
        mlem.compare({"a": a, "draws": b.to_datatree(draws=10, random_seed=1)})
    assert len(mlem.compare({"a": a, "again": coin([1, 1, 0, 0])})) == 1


def test_labels_that_are_known_in_part_do_not_contradict():
    labels, data = np.repeat([0, 1], 10), np.r_[np.zeros(10), np.full(10, 5.0)] + np.tile([0.1, -0.1], 10)

    def fit(unknown):
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 5, shape=2, initval=[0.0, 5.0])
            z = pm.Bernoulli("z", 0.5, observed=np.ma.masked_array(labels, unknown))
            pm.Normal("y", mu[z], 1.0, observed=data)
        return mlem.fit(model, random_seed=1, progressbar=False)

    with pytest.warns(Warning, match="missing values"):
        some, none = fit(np.arange(20) % 2 == 0), fit(np.arange(20) >= 0)
    table = mlem.compare({"some": some, "none": none})
    np.testing.assert_allclose(table["some"]["estimate"], table["none"]["estimate"], atol=0.05)
    assert any("know different entries of 'z'" in note for note in table.notes)


def test_missing_standard_errors_have_a_note():
    found = coin([1, 1, 1, 1])
    table = mlem.compare({"MLE": found, "draws": coin([1, 1, 1, 1], fixed={"p": 0.5})})
    assert np.isnan(table["MLE"].loc["p", "se"]) and np.isnan(table["draws"].loc["p", "se"])
    assert table["draws"].loc["p", "estimate"] == 0.5 and np.isnan(table["draws"].loc["p", "shift"])
    assert "'draws', p: fixed." in table.notes
    assert any(note.startswith("'MLE', p:") for note in table.notes)
    assert set(table.tidy()["note"]) == {found.summary()["note"].item(), "fixed"}


def test_variables_that_one_method_lacks(faithful_fit, nuts):
    smaller = xr.DataTree.from_dict({"/posterior": nuts["posterior"].to_dataset()[["w", "mu"]]})
    table = mlem.compare({"MLE": faithful_fit, "some": smaller}, align=False)
    assert table["some"].loc[["sigma[short]", "sigma[long]"]].isna().all().all()
    assert "'some' lacks (entries of) 'sigma'." in table.notes
    assert np.isnan(table.to_datatree()["point_estimate"]["sigma"].sel(model="some")).all()
    left = mlem.compare({"MLE": faithful_fit, "some": smaller})
    assert any("states of 'some' are as they are: The posterior has no 'sigma'" in note for note in left.notes)


def test_another_number_of_states(faithful_fit):
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        mu = pm.Normal("mu", 70, 20, shape=3, initval=[50.0, 60.0, 80.0])
        pm.NormalMixture("waiting", w, mu, 6.0, observed=waiting_times())
    three = mlem.fit(model, starts=1, progressbar=False)
    table = mlem.compare({"two": faithful_fit, "three": three})
    assert any("states of 'three' are as they are: 'w' has shape (3,)" in note for note in table.notes)
    assert {"mu[short]", "mu[0]", "mu[2]"} <= set(table.index)


def test_draws_alone_leave_what_is_large(nuts):
    large = nuts["posterior"].to_dataset().assign(labels=(("chain", "draw", "row"), np.zeros((2, 150, 272))))
    table = mlem.compare({"NUTS": xr.DataTree.from_dict({"/posterior": large})})
    assert len(table) == 6
    assert len(mlem.compare({"NUTS": xr.DataTree.from_dict({"/posterior": large})}, var_names=["labels"])) == 272


def test_a_single_draw_has_no_spread(faithful_fit, nuts):
    one = xr.DataTree.from_dict({"/posterior": nuts["posterior"].to_dataset().isel(chain=[0], draw=[0])})
    table = mlem.compare({"MLE": faithful_fit, "one": one}, reference="MLE")
    assert table["one"]["se"].isna().all() and table["one"]["estimate"].notna().all()


def test_wrong_input(faithful_fit, nuts):
    with pytest.raises(ValueError, match="at least one entry"):
        mlem.compare({})
    with pytest.raises(TypeError, match=r"'x' must be an mlem.Fit or a DataTree"):
        mlem.compare({"x": 3})
    with pytest.raises(TypeError, match="It has no group 'posterior'"):
        mlem.compare({"x": xr.DataTree()})
    with pytest.raises(TypeError, match="needs the dims 'chain' and 'draw'"):
        mlem.compare({"x": xr.DataTree.from_dict({"/posterior": xr.Dataset({"a": 1.0})})})
    with pytest.raises(ValueError, match="'MLE' has no variable 'nu'"):
        mlem.compare({"MLE": faithful_fit}, var_names=["nu"])
    with pytest.raises(ValueError, match="reference='HMC' is not among the results: 'MLE'"):
        mlem.compare({"MLE": faithful_fit}, reference="HMC")
    with pytest.raises(ValueError, match="kind= names 'HMC'"):
        mlem.compare({"MLE": faithful_fit}, kind={"HMC": "eti"})
    with pytest.raises(ValueError, match="kind='eti' is no kind of interval of 'MLE': fits have"):
        mlem.compare({"MLE": faithful_fit}, kind="eti")
    with pytest.raises(ValueError, match="kind='wald' is no kind of interval of 'NUTS': draws have"):
        mlem.compare({"NUTS": nuts}, kind={"NUTS": "wald"})
    with pytest.raises(ValueError, match="level=95 must lie between 0 and 1"):
        mlem.compare({"NUTS": nuts}, level=95)


def test_nuts_on_the_model_with_labels_in_another_order():
    """What a sampler of the labels returns goes through whole: labels, parameters, Deterministics."""
    model = old_faithful(waiting_times()[:40])
    fit = mlem.fit(model, random_seed=1, progressbar=False)
    posterior = fit.to_datatree(draws=8, chains=1, random_seed=1)["posterior"].to_dataset().copy()
    decoded = fit.decode()["z"]
    posterior["z"] = (1 - decoded).expand_dims(chain=[0], draw=range(8))
    for name in ("w", "mu", "sigma"):
        posterior[name] = posterior[name].isel(kind=[1, 0]).assign_coords(kind=["short", "long"])
    tree = xr.DataTree.from_dict({"/posterior": posterior})
    table = mlem.compare({"MLE": fit, "labels": tree}, var_names=["w", "mu", "sigma"])
    assert (table["MLE"]["shift"].abs() < 2).all()
    assert table.attrs["reference"] == "labels"


def test_a_fit_from_a_file_stands_in_for_the_fit(faithful_fit, coin):
    saved = mlem.from_datatree(faithful_fit.to_datatree(draws=20, random_seed=1))
    table = mlem.compare({"MLE": faithful_fit, "saved": saved})
    pd.testing.assert_frame_equal(pd.DataFrame(table["MLE"]), pd.DataFrame(table["saved"]))
    assert table.criteria.fits.loc["saved", "bic"] == faithful_fit.bic
    with pytest.raises(ValueError, match="level"):
        mlem.compare({"saved": saved}, level=0.77)
    with pytest.raises(ValueError, match="'waiting' differs"):
        with pm.Model() as other:
            pm.Normal("waiting", pm.Normal("mu", 0, 100), 10.0, observed=np.arange(272.0))
        mlem.compare({"saved": saved, "other": mlem.fit(other, progressbar=False)})
