"""The demo as ``make demo`` runs it, without NUTS (with it: slow)."""

import pytest

from pm_mlem import demo

pytestmark = pytest.mark.compiled


def test_without_mcmc(tmp_path, capsys):
    demo.main(["--no-mcmc", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert "MLE" in text
    assert "z: 272 independent Categorical(2)" in text
    assert "mu[short]" in text
    assert "-1034.0017" in text
    assert "NUTS on the same model" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["convergence.png", "estimates.png", "latents.png"]
    assert all(p.stat().st_size > 10_000 for p in tmp_path.iterdir())


@pytest.mark.slow
def test_with_mcmc(tmp_path, capsys):
    demo.main(["--out", str(tmp_path)])
    assert "NUTS" in capsys.readouterr().out


def test_the_data_are_the_published_ones():
    waiting = demo.waiting_times()
    assert (len(waiting), waiting.sum(), waiting[0]) == (272, 19284.0, 79.0)
