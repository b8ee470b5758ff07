"""One small run from end to end, started as a user starts it."""
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_small_profile_is_reproduced_and_reported(tmp_path):
    profile = Path(__file__).with_name("ci.yaml")
    xlingtox = Path(sys.executable).with_name("xlingtox")
    done = subprocess.run([xlingtox, "reproduce", "--profile", profile], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    reports = list(tmp_path.glob("runs/*/report/index.html"))
    assert len(reports) == 1 and "<html" in reports[0].read_text(encoding="utf-8")
