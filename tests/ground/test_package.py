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
    workflow = {Path(home) / path for home in ("paper", "evidence") for path in files(ROOT / home)}
    assert built == files(ROOT / "xlingtox") | workflow
    assert any("." in part for path in built for part in path.parts[:-1])  # a folder named after a model with a dot is one


def test_the_citation_names_this_version_and_a_day():
    import datetime

    import yaml
    from xlingtox import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and isinstance(citation["date-released"], datetime.date)


def test_configurations_of_tools_name_what_there_is():
    "Hooks, container and workflows call targets and files that exist"
    import json
    import re

    import yaml

    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.M))
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]]
    assert {hook["id"] for hook in hooks} == {"nbdev-export", "nbdev-clean", "ruff"} and all(hook["language"] == "system" for hook in hooks)
    container = json.loads(re.sub(r"^\s*//.*$", "", (ROOT / ".devcontainer/devcontainer.json").read_text(), flags=re.M))
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).is_file()
    called = [container["postCreateCommand"], *(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yaml")),
              (ROOT / "Dockerfile").read_text(), (ROOT / ".ci/run").read_text()]
    for text in called:
        assert set(re.findall(r"(?:^|run: |RUN |part .* )make ([\w./-]+)", text, re.M)) <= targets
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    assert all((ROOT / name).exists() for names in copied for name in names.split())
