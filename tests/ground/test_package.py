"""What is built for installation holds the whole package, whatever its folders are called."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def files(folder):
    "Every file below `folder` that is neither hidden nor a by-product of running it"
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not any(part.startswith((".", "__pycache__")) for part in path.parts)}


def test_the_built_package_holds_every_file_of_the_code_and_of_the_workflow(tmp_path):
    build = [sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path / "base",
             "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    built = files(tmp_path / "lib" / "xlingtox")
    workflow = {Path("paper") / path for path in files(ROOT / "paper")}
    assert built == files(ROOT / "xlingtox") | workflow
    assert any("." in part for path in built for part in path.parts[:-1])  # a folder named after a model with a dot is one
