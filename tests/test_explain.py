"""What is printed about a model before anything is fitted."""

import pymc as pm
import pytest

import pm_mlem as mlem


def test_roles_are_printed(faithful, capsys):
    plan = mlem.explain(faithful)
    text = capsys.readouterr().out
    assert text.strip() == str(plan)
    for line in (
        "w              parameter  Dirichlet, shape (2,)",
        "z              latent     Categorical, 272 element(s)",
    ):
        assert line in text
    assert "z: 272 independent sums over 2 states; cost 544 table entries" in text
    assert plan.cost == 544


def test_model_from_the_context(coin, capsys):
    with coin:
        mlem.explain()
    assert "flips  data" in capsys.readouterr().out


def test_refusals_are_the_same_as_in_fit():
    with pm.Model() as model:
        pm.Normal("mu")
    with pytest.raises(ValueError, match="no observed data"):
        mlem.explain(model)
