"What the notebooks in the repository show: nothing that a reader would wonder about."
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path for folder in ("nbs", "paper") for path in ROOT.joinpath(folder).rglob("*.ipynb")
                   if not any(part.startswith((".", "_")) for part in path.relative_to(ROOT).parts))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_outputs_hold_no_warning_and_no_path_of_a_machine(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", (cell["id"], "".join(output["text"])[:200])
            assert output["output_type"] != "error", cell["id"]
            texts = [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
            shown = "".join(sum(texts, output.get("text", [])))
            assert not re.search(r"/(tmp|root|home|Users|work)/|0x[0-9a-f]{8}", shown), (cell["id"], shown[:200])
