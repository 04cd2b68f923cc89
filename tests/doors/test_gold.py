"""Reference answers of R and Python packages on real data, where the reference cases are at hand."""

import argparse
import sys
import warnings
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytestmark = pytest.mark.compiled

GOLD = Path(__file__).resolve().parents[3] / "shared" / "gold"
FAMILIES = [
    "lm_*", "logit_*", "probit_*", "poisson_*", "negbin_*", "gamma_*", "beta_*", "dist_*", "ordinal_*",
    "multinomial_*", "nls_*", "t4_*", "ar1_*", "tobit_*", "interval_*", "weibull_*", "lognormal_*", "loglogistic_*",
    "map_*", "gmm_faithful_waiting_*", "gmm_acidity_*", "gmm_enzyme_*", "gmm_galaxies_*",
    "poismix_*", "abo_*", "gmm_*__mixture", "regmix_*__mixture", "zip_*__mixture", "hurdle_poisson_biochemists",
]  # fmt: skip

if GOLD.is_dir():
    sys.path.insert(0, str(GOLD))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gold_common
        import judge

        NAMES = [
            n
            for n in gold_common.load_models()
            if any(fnmatch(n, f) for f in FAMILIES) and (GOLD / "cases" / f"{n.split('__')[0]}.json").exists()
        ]
else:
    NAMES = []

STUDIES = ["gmm_*", "poismix_*", "regmix_*", "*__*"]
"""Fits of mixtures by EM are in every other file; second spellings of a case are compared in the structures."""
OPTIONS = argparse.Namespace(method=None, quadrature_arg="quadrature", strict_se=False, profile=False)


@pytest.mark.skipif(not NAMES, reason="the reference cases are not here")
@pytest.mark.filterwarnings("ignore")  # the cases' models are written to warn now and then
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * any(fnmatch(n, s) for s in STUDIES)) for n in NAMES]
)
def test_reference_case(name):
    record = judge.run_case(name, GOLD / "cases", OPTIONS)
    assert record["status"] == "PASS", record["reasons"]
