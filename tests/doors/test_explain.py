"""What is printed about a model before anything is fitted."""

import numpy as np
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
    assert "z: 272 independent Categorical(2); cost 544 table entries" in text
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


def test_nothing_is_compiled(faithful, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "jit", None)
    assert mlem.explain(faithful).cost == 544


def test_loops_and_chains_are_one_entry(capsys):
    with pm.Model() as model:
        transition = pm.Dirichlet("transition", [[4.0, 1.0], [1.0, 4.0]])
        mu = pm.Normal("mu", shape=2)
        z = pm.Categorical("z_0", [0.5, 0.5])
        for t in range(1, 9):
            z = pm.Categorical(f"z_{t}", transition[z])
            pm.Normal(f"y_{t}", mu[z], 1.0, observed=0.1 * t)
    mlem.explain(model)
    text = capsys.readouterr().out
    assert "z_0 ... z_8" in text
    assert "9 variables, each Categorical, 1 element(s) with 2 states" in text
    assert "z_0: 1 chain(s) of up to 9 steps, looking back 1, Categorical(2); cost 36 table entries" in text


def test_the_order_of_several_latents(capsys):
    with pm.Model(coords={"group": range(3), "row": range(6)}) as model:
        group = pm.Categorical("group_class", [0.5, 0.5], dims="group")
        mu = pm.Normal("mu", shape=(2, 2))
        row = pm.Categorical("row_class", [0.3, 0.7], dims="row")
        pm.Normal("y", mu[group[[0, 0, 1, 1, 2, 2]], row], 1.0, observed=[0.1] * 6, dims="row")
    plan = mlem.explain(model)
    first, second = plan.steps
    assert first == "row_class: 6 independent Categorical(2), one per row given group_class; cost 24 table entries"
    assert second == "group_class: 3 independent Categorical(2), one per group; cost 6 table entries"
    assert "in all 30 table entries" in capsys.readouterr().out


def test_penalties_are_no_data():
    with pm.Model() as model:
        b = pm.Normal("b", shape=2)
        pm.Potential("ridge", -(b**2).sum())
        pm.Potential("rows", pm.logp(pm.Normal.dist(b[0], 1.0), np.arange(4.0)))
    roles = {role.name: role.role for role in mlem.explain(model).roles}
    assert roles == {"b": "parameter", "ridge": "penalty", "rows": "data"}
