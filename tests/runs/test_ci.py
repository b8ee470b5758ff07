"""One small run from end to end, started as a user starts it; and the same with other instructions of the processor."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

# PyTorch's own kernels, oneDNN's and MKL's: as here, and as on a processor that has no AVX
INSTRUCTIONS = {
    "as here": {},
    "without AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Instructions -> the folder of a finished run"
    profile, xlingtox, found = Path(__file__).with_name("ci.yaml"), Path(sys.executable).with_name("xlingtox"), {}
    for name, settings in INSTRUCTIONS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        done = subprocess.run([xlingtox, "reproduce", "--profile", profile], cwd=folder, text=True, capture_output=True, env=os.environ | settings)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        found[name] = folder / "runs/ci"
    return found


@pytest.mark.slow
def test_a_small_profile_is_reproduced_and_reported(runs):
    assert "<html" in (runs["as here"] / "report/index.html").read_text(encoding="utf-8")


def verdicts(run: Path) -> dict:
    "(exhibit, claim) -> whether it holds"
    exhibits = [json.loads(path.read_text()) for path in sorted(run.glob("exhibits/*/*/exhibit.json"))]
    return {(e["name"], v["claim"]): v["holds"] for e in exhibits for v in e["verdicts"]}


@pytest.mark.slow
def test_other_instructions_give_the_same_verdicts(runs):
    here, elsewhere = runs.values()
    assert len(verdicts(here)) > 8
    assert verdicts(here) == verdicts(elsewhere)


@pytest.mark.slow
def test_other_instructions_write_the_same_texts_but_for_a_few(runs):
    texts = [pd.read_parquet(run / "generations/mgpt/base.parquet")["text"] for run in runs.values()]
    assert (texts[0] == texts[1]).mean() > 0.98
