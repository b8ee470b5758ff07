"""A folder of notebooks in which every stage takes a moment, to test the workflow around them.

The stages write no real tables: an artifact holds the digest of its settings and of what it read, so a test can see what was made from what.
Environment variables make a job misbehave: FAIL_JOB, BAD_INPUT_JOB, SLOW_JOB, SLOW_ONCE, FULL_JOB name it as the workflow does ("tune mgpt/dpo-0").
"""
import shutil
from pathlib import Path

import nbformat
from xlingtox import core

PROFILE = """
name: mini
title: a fake
languages: [en, de]
data:
  prompts: {source: "babel:prompts", n: 3}
  preference: {source: "babel:preference", n: 3}
  multiway: {source: "babel:multiway", n: 3}
models:
  mgpt: {model: "mini:mgpt", seeds: [0]}
judge: {model: "mini:judge"}
scorer: lexicon:babel
threads: {base: 2}
"""

COMMON = '''
import hashlib, json, os, pathlib, resource, time
import xlingtox.core
root = pathlib.Path(run)
if variant == "dpo": variant = ""  # the main group of a stage that gathers variants
def job(): return " ".join([stage, "/".join(x for x in (role, variant) if x)]).strip() if "/" not in stage else stage
with open(root / "ran.txt", "a") as f: f.write(job() + "\\n")
if os.environ.get("FAIL_JOB") == job(): raise RuntimeError("this stage is broken")
if os.environ.get("BAD_INPUT_JOB") == job(): raise xlingtox.core.InputError("table.csv, line 3: toxic is missing")
if os.environ.get("SLOW_JOB") == job(): time.sleep(60)
if os.environ.get("SLOW_ONCE") == job() and (root / "ran.txt").read_text().splitlines().count(job()) == 1: time.sleep(3600)
def write(path, text):
    with xlingtox.core.atomic_path(root / path) as temporary:
        with open(temporary, "w") as f:
            f.write(text[: len(text) // 2])
            f.flush()
            if os.environ.get("FULL_JOB") == job(): resource.setrlimit(resource.RLIMIT_FSIZE, (32, 32))
            f.write(text[len(text) // 2:])
profile = json.loads((root / "profile.json").read_text())
read = lambda path: (root / path).read_text()
def texts():  # of the base model's scores and those of the group
    return [p.read_text() for p in sorted(root.glob(f"scores/{role}/*.parquet")) if p.stem == "base" or p.stem.startswith(variant or "dpo")]
sha = lambda *texts: hashlib.sha256("".join(map(str, texts)).encode()).hexdigest()
def make(path, *sources, table=True):
    text = sha(*sources, os.environ["OMP_NUM_THREADS"])
    if table: write(path, text)
    write(path + ".manifest.json", json.dumps({"digest": text, "inputs": {}, "parameters": {}, "seed": 0, "versions": {}, "seconds": 1.0,
                                               "hardware": {}, "finished": ""}))
'''

STAGES = {
    "data": 'make(f"data/{variant}.parquet", profile["data"][variant])',
    "base": 'make(f"models/{role}/base", table=False)',
    "tune": 'make(f"models/{role}/{variant}", profile["dpo"], read(f"models/{role}/base.manifest.json"), table=False)',
    "generate": 'make(f"generations/{role}/{variant}.parquet", profile["generation"], read(f"models/{role}/{variant}.manifest.json"))',
    "score": 'make(f"scores/{role}/{variant}.parquet", read(f"generations/{role}/{variant}.parquet"))',
    "perplexity": 'make(f"perplexity/{role}/{variant}.parquet", read(f"generations/{role}/{variant}.parquet"))',
    "retrieval": 'make(f"retrieval/{role}.parquet", profile["retrieval"])',
    "prompt_scores": 'make("/".join(filter(None, ["prompt_scores", role, variant])) + ".parquet", *texts())',
    "metrics": 'make("/".join(filter(None, ["metrics", role, variant])) + ".parquet", *texts())',
    "capability": 'make(f"capability/{role}/{variant}.parquet", profile["capability"])',
}
EXHIBIT = '''
write(f"exhibits/{stage}/exhibit.json", json.dumps({"paper": "li2024", "name": stage.split("/")[1], "title": "a fake", "caption": "", "scorer": "x",
      "variant": "x", "footer": [], "verdicts": [], "figures": [], "tables": [], "data": "data", "alt": ""}))
write(f"exhibits/{stage}/data.csv", sha(*[p.read_text() for p in sorted(root.glob("prompt_scores/*.parquet"))]) + "\\n")
'''


def write_notebook(path: Path, *cells: str):
    "A notebook whose first cell holds the parameters"
    path.parent.mkdir(parents=True, exist_ok=True)
    first = nbformat.v4.new_code_cell('run = "."\nrole = ""\nvariant = ""', metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)]), path)


def make_paper(folder: Path) -> Path:
    "Write the fake folder, with the real Snakefile"
    source = core.paper_dir() / "Snakefile"
    (folder / "profiles").mkdir(parents=True)
    shutil.copy(source, folder)
    (folder / "profiles/mini.yaml").write_text(PROFILE)
    for name, code in STAGES.items():
        write_notebook(folder / f"stages/{name}.ipynb", f'stage = "{name}"', COMMON, code)
    for name in ("li2024/fig1", "li2024/fig4", "li2024/table2", "li2024/fig11"):  # the last where the profile has a sweep
        write_notebook(folder / f"{name}.ipynb", f'stage = globals().get("name", "{name}")', COMMON, EXHIBIT)
    return folder
