"""One table of several methods."""

import numpy as np
import pytest

import pm_mlem as mlem


def test_fits_and_draws_side_by_side(faithful_fit, faithful_map):
    draws = faithful_fit.to_datatree(draws=2000, random_seed=0)
    table = mlem.compare({"MLE": faithful_fit, "MAP": faithful_map, "draws": draws})
    assert list(table.columns.get_level_values(0).unique()) == ["MLE", "MAP", "draws"]
    assert list(table["MLE"].columns) == ["estimate", "se", "ci_lb", "ci_ub"]
    assert list(table.index) == list(faithful_fit.summary().index)
    np.testing.assert_allclose(table["MLE"]["estimate"], faithful_fit.summary()["estimate"])
    np.testing.assert_allclose(table["draws"]["estimate"], table["MLE"]["estimate"], rtol=0.02)
    np.testing.assert_allclose(table["draws"]["ci_ub"], table["MLE"]["ci_ub"], rtol=0.03)


def test_level_and_names(faithful_fit):
    narrow = mlem.compare({"MLE": faithful_fit}, level=0.5, var_names=["mu"])
    assert list(narrow.index) == ["mu[short]", "mu[long]"]
    wide = mlem.compare({"MLE": faithful_fit}, var_names=["mu"])
    assert (narrow["MLE"]["ci_ub"] < wide["MLE"]["ci_ub"]).all()


def test_wrong_input(faithful_fit):
    with pytest.raises(ValueError, match="at least one entry"):
        mlem.compare({})
    with pytest.raises(TypeError, match="'x' must be an mlem.Fit or a DataTree"):
        mlem.compare({"x": 3})
    with pytest.raises(ValueError, match="'MLE' has no variable 'nu'"):
        mlem.compare({"MLE": faithful_fit}, var_names=["nu"])
