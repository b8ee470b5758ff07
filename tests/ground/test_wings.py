"""The order of the wings: no module imports one of a later wing."""
import ast
from pathlib import Path

import xlingtox

ROOT = Path(xlingtox.__file__).parent
WINGS = ["", "babel", "data", "models", "generation", "tuning", "scorers", "metrics", "mechanism", "papers", "profiles", "runs"]  # "": the ground


def wing_of(parts):
    return parts[0] if len(parts) > 1 or parts[0] in WINGS else ""


def imported(path):
    "Modules of the package that a module names in an import, also inside a function, as tuples of names below xlingtox"
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = parts[:-node.level] if node.level else ()
            name = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                yield from ((*above, *name, alias.name) if not name else (*above, *name) for alias in node.names)
            elif name[:1] == ("xlingtox",):
                yield from ((*name[1:], alias.name) if len(name) == 1 else name[1:] for alias in node.names)


def test_science_stands_below_the_run():
    later = []
    for path in ROOT.rglob("*.py"):
        if path.name in ("__init__.py", "_modidx.py", "cli.py"):  # the command line stands above all wings
            continue
        here = path.relative_to(ROOT).with_suffix("").parts
        for module in imported(path):
            if module and WINGS.index(wing_of(module)) > WINGS.index(wing_of(here)):
                later.append((".".join(here), ".".join(module)))
    assert later == []


def test_the_readme_leads_to_every_notebook():
    root = Path(__file__).parents[2]
    said = (root / "README.md").read_text(encoding="utf-8")
    notebooks = [path.relative_to(root).as_posix() for path in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    assert len(notebooks) > 100
    assert [name for name in sorted(notebooks) if f"({name})" not in said and name != "nbs/index.ipynb"] == []
