"""A wheel, installed into an empty environment, imports and fits."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import numpy as np, pymc as pm, pm_mlem as mlem
assert "site-packages" in mlem.__file__, mlem.__file__
with pm.Model() as model:
    p = pm.Beta("p", 1, 1)
    pm.Bernoulli("y", p, observed=np.repeat([1, 0], [60, 40]))
print(round(mlem.fit(model, progressbar=False).estimates["p"].item(), 6))
from pm_mlem.demo import waiting_times
print(len(waiting_times()))
"""


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    def run(*command, **options):
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, **options).stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    [wheel] = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "empty")
    python = str(tmp_path / "empty" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel))
    assert run(python, "-c", PROGRAM).split() == ["0.6", "272"]
