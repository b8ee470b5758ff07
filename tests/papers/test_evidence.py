"""The archive of a run of a real model: no text, no weights, no places; part by part; and what a run says of itself beside it."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from xlingtox.core import InputError, read_json, write_json, write_table
from xlingtox.papers import evidence, report
from xlingtox.papers.pilot import PILOT

from synthetic_run import make_run, run_cells

LANGS = ["en", "de", "es", "ru", "zh"]
EXHIBITS = ["li2024/fig1", "li2024/table1", "li2024/fig4"]


def card(left_out, thirds):
    "That of the run's scorer"
    rows = pd.DataFrame({"lang": LANGS, "left_out": left_out, "thirds": [np.nan, *[thirds] * 4], "judged": True, "reason": ""})
    return rows.assign(spec="words:/home/me/lists", scorer="lexicon", left_out_low=rows["left_out"] - 0.05, n=100)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run whose model lies in a file of somebody's home, with two figures and a table of texts"
    run = make_run(tmp_path_factory.mktemp("runs") / "laptop", 0.9, LANGS, n_prompts=20, seeds=2)
    model = {"model": "/home/me/models/gemma.gguf"}
    write_json({"name": "laptop", "title": "A real model", "pilot": True, "scorer": "words:/home/me/lists", "languages": LANGS, "judge": model,
                "models": {"mgpt": model}, "data": {"prompts": {"source": ["rtp-lx:/home/me/rtp"]}}}, run / "profile.json")
    for role in ("mgpt", "judge"):
        (run / "models" / role / "base").mkdir(parents=True)
        save_file({"w": np.ones((2, 3), np.float32)}, run / "models" / role / "base/model.safetensors")
        write_json({"file": "gemma.gguf", "sha256": "f" * 64}, run / "models" / role / "base/source.json")
    write_table(card(0.7, 0.6), run / "scorer_card/all.parquet")
    for name in EXHIBITS:
        run_cells(name, run)
    return run


@pytest.fixture(scope="module")
def archive(run, tmp_path_factory):
    return evidence.keep_evidence(run, tmp_path_factory.mktemp("evidence"))


def everything(archive):
    return {path.relative_to(archive).as_posix(): path.read_text(encoding="utf-8") for path in archive.rglob("*") if path.is_file()}


def test_no_row_of_raw_text_is_in_the_archive(run, archive):
    texts = set()
    for kind in ("data", "generations"):
        for file in (run / kind).rglob("*.parquet"):
            texts |= {text.strip() for text in pd.read_parquet(file)["text"]}
    texts = {text for text in texts if len(text.encode()) >= 12}
    assert len(texts) > 100
    for name, said in everything(archive).items():
        assert not any(text in said for text in texts), name
    shown = pd.read_csv(archive / "exhibits/li2024/table1/table1.csv")
    assert {"prompt", "before", "after"}.isdisjoint(shown) and "lang" in shown, "masked texts are texts"


TEXT = 'The "harbour" & its <friends> were quiet -- then somebody shouted at them'


@pytest.mark.parametrize("spell", [str, str.upper, lambda text: text[:-9], lambda text: text[20:], lambda text: text.replace(" ", "\r\n"),
                                   lambda text: f"it said: {text}"])
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.svg", "b.svg", "c.svg"])
def test_a_text_is_found_however_it_is_spelt(tmp_path, name, spell):
    said, file = spell(TEXT), tmp_path / name
    if name == "a.csv":
        pd.DataFrame({"note": [said], "n": [1]}).to_csv(file, index=False)
    elif name == "a.json":
        write_json({"caption": {"of": [said]}}, file)
    else:
        escaped = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        spelt = {"a.svg": f"<!-- {escaped} -->", "b.svg": f"<text>{escaped}</text>", "c.svg": f"\n <!-- {escaped} -->\n"}
        file.write_text(f"<svg><g>{spelt[name]}</g></svg>")
    with pytest.raises(InputError, match=f"{name}: holds a text of the run"):
        evidence.check_no_text(tmp_path, {TEXT})
    evidence.check_no_text(tmp_path, {"Another text of this kind, as long as the first one is, about the harbour"})


def test_a_label_in_several_pieces_and_a_short_text_in_another_case_are_found(tmp_path):
    (tmp_path / "a.svg").write_text("<svg><!-- This sentence is somewhat longer --><g/><!-- than forty characters, really so. --></svg>")
    with pytest.raises(InputError, match=r"a\.svg: holds a text"):
        evidence.check_no_text(tmp_path, {"This sentence is somewhat longer than forty characters, really so."})
    (tmp_path / "a.svg").write_text("<svg><text>der Nachbar</text><text>ist still.</text></svg>")
    with pytest.raises(InputError, match=r"a\.svg: holds a text"):
        evidence.check_no_text(tmp_path, {"Der Nachbar ist still."})


def test_texts_in_lists_and_categories_are_texts(tmp_path):
    table = pd.DataFrame({"choices": [["a harbour town", "an island"]], "text": pd.Categorical(["a quiet harbour"]), "lang": ["en"]})
    write_table(table, tmp_path / "data/choice.parquet")
    assert evidence.raw_texts(tmp_path) == {"a harbour town", "a quiet harbour"}, "all but what is too short to tell"


def test_a_text_that_slips_through_stops_it(run, tmp_path):
    table = run / "exhibits/li2024/fig1/averages.csv"
    good, text = table.read_text(), pd.read_parquet(run / "data/prompts.parquet")["text"].max()
    try:
        pd.read_csv(table).assign(noted=text).to_csv(table, index=False)
        with pytest.raises(InputError, match="averages.csv: holds a text of the run, and is not archived"):
            evidence.keep_evidence(run, tmp_path)
    finally:
        table.write_text(good)
    assert not (tmp_path / "laptop").exists(), "nothing half written"


def test_neither_weights_nor_places_are_in_it(archive):
    files = everything(archive)
    assert {name.rpartition(".")[2] for name in files} == {"csv", "json", "svg"}
    assert not [name for name, said in files.items() if "/home/me" in said]
    about = read_json(archive / "manifest.json")
    assert about["models"]["mgpt"]["model"] == "gemma.gguf" and about["models"]["mgpt"]["parameters"] == 6
    assert about["models"]["mgpt"]["file_sha256"] == "f" * 64 != about["models"]["mgpt"]["sha256"]
    assert len(about["models"]["mgpt"]["sha256"]) == 64 and about["settings"]["data"]["prompts"]["source"] == ["rtp-lx:rtp"]
    for entry in about["exhibits"].values():
        assert entry["versions"]["xlingtox"] and entry["hardware"]["cores"] and entry["finished"]
    assert pd.read_csv(archive / "scorer_cards.csv")["spec"].unique().tolist() == ["words:lists"]
    assert set(pd.read_csv(archive / "verdicts.csv")["claim"]) == {"L1", "L13", "L14"}


def test_a_figure_that_names_a_place_is_left_out(run, archive, tmp_path):
    figure = run / "exhibits/li2024/fig1/fig1.svg"
    good, name = figure.read_text(), "exhibits/li2024/fig1"
    assert (archive / name / "fig1.svg").exists()
    try:
        figure.write_text(good.replace("</svg>", "<!-- features:/home/me/models/e5 --></svg>"))
        kept = evidence.keep_evidence(run, tmp_path)
    finally:
        figure.write_text(good)
    assert not (kept / name / "fig1.svg").exists() and "fig1" not in read_json(kept / name / "exhibit.json")["figures"]


def test_it_is_of_one_run(run, archive, tmp_path, capsys):
    "What was kept of another run, with another scorer or other settings, does not stand under the title of this one"
    shutil.copytree(archive, tmp_path / "laptop")
    about = read_json(tmp_path / "laptop/manifest.json")
    about["exhibits"]["li2024/fig2"] = about["exhibits"]["li2024/fig1"]
    write_json(about, tmp_path / "laptop/manifest.json")
    (tmp_path / "laptop/exhibits/li2024/fig2").mkdir()
    assert evidence.main([str(run), "--to", str(tmp_path)]) == 0
    assert "no longer archived, since this run has not made them: li2024/fig2" in capsys.readouterr().out
    assert set(read_json(tmp_path / "laptop/manifest.json")["exhibits"]) == set(EXHIBITS)
    assert not (tmp_path / "laptop/exhibits/li2024/fig2").exists()


def test_a_machine_is_told_once_and_a_gpu_is_no_laptop(run, tmp_path):
    "Jobs of one machine differ in the memory that they took"
    files, gpu = [run / "data/choice.parquet.manifest.json", run / "data/cross.parquet.manifest.json"], "H100"
    machine = {"cores": 16, "gpu": gpu, "memory_gib": 126.0}
    try:
        for peak, file in enumerate(files):
            write_json({"seconds": 1.0, "hardware": machine | {"peak_memory_gib": peak, "peak_gpu_memory_gib": 2 * peak}}, file)
        about = read_json(evidence.keep_evidence(run, tmp_path) / "manifest.json")
        assert [m for m in about["machines"] if m["gpu"] == gpu] == [machine]
        assert evidence.evidence_column("laptop", tmp_path)["title"] == "Real 6e-06 M on a GPU"
    finally:
        for file in files:
            file.unlink()


def test_a_run_of_miniatures_is_no_evidence(tmp_path, capsys):
    make_run(tmp_path / "mini", 0.9, LANGS[:3], n_prompts=10, seeds=1)
    write_json({"name": "mini", "title": "", "scorer": "lexicon:babel", "judge": {"model": "mini:judge"}, "models": {"mgpt": {"model": "mini:mgpt"}}},
               tmp_path / "mini/profile.json")
    run_cells("li2024/fig1", tmp_path / "mini")
    assert evidence.main([str(tmp_path / "mini"), "--to", str(tmp_path / "kept")]) == 2
    assert "evidence is of real models" in capsys.readouterr().err and not (tmp_path / "kept/mini").exists()


def test_a_run_compares_itself(run, archive, tmp_path):
    folder = archive.parent
    same = evidence.compare_evidence(run, folder)
    assert set(same["exhibit"]) == set(EXHIBITS) and (same["tables"] == same["equal"]).all()
    assert same["numbers"].sum() == same["within"].sum() > 20 and not sum(same["moved"], [])
    old = archive / "exhibits/li2024/fig1"
    data, found = pd.read_csv(old / "per_language.csv"), read_json(old / "exhibit.json")
    shift = data.assign(**{c: data[c] + 10 for c in data if c.startswith("after")})
    other = tmp_path / "laptop"
    for path in archive.rglob("*"):
        if path.is_file():
            (other / path.relative_to(archive)).parent.mkdir(parents=True, exist_ok=True)
            (other / path.relative_to(archive)).write_bytes(path.read_bytes())
    shift.to_csv(other / "exhibits/li2024/fig1/per_language.csv", index=False)
    found["verdicts"][0]["holds"] = not found["verdicts"][0]["holds"]
    write_json(found, other / "exhibits/li2024/fig1/exhibit.json")
    moved = evidence.compare_evidence(run, tmp_path)
    said = evidence.compared_in_words(moved)
    assert 0 < moved["within"].sum() < moved["numbers"].sum() and "verdicts alike" in said[0] and "L1 of li2024/fig1" in said[1]
    assert evidence.compared_in_words(evidence.compare_evidence(run, tmp_path / "nowhere")) == []


def test_what_a_run_lacks_is_not_alike(run, archive, tmp_path):
    "Exhibits that were only named, verdicts that were not reached, tables that are not there, and numbers that are missing"
    def changed(name, change):
        shutil.copytree(run, tmp_path / name)
        change(tmp_path / name / "exhibits/li2024/fig1")
        table = evidence.compare_evidence(tmp_path / name, archive.parent).set_index("exhibit")
        return table, table.loc["li2024/fig1"] if "li2024/fig1" in table.index else None

    def rewrite(folder, **fields):
        write_json(read_json(folder / "exhibit.json") | fields, folder / "exhibit.json")

    def nowhere(folder):
        pd.read_csv(folder / "per_language.csv").assign(lang="xx").to_csv(folder / "per_language.csv", index=False)

    def unknown(folder):
        table = pd.read_csv(folder / "per_language.csv")
        table.assign(**dict.fromkeys(table.select_dtypes("number"), np.nan)).to_csv(folder / "per_language.csv", index=False)

    assert changed("named", lambda folder: rewrite(folder, variant="not run"))[1] is None
    unjudged = changed("unjudged", lambda folder: rewrite(folder, verdicts=[]))[1]
    assert unjudged["moved"] == ["L1 of li2024/fig1: not judged, archived does not hold"] and unjudged["verdicts"] == 1
    gone = changed("gone", lambda folder: (folder / "per_language.csv").unlink())[1]
    assert gone["equal"] < gone["tables"] and gone["within"] == 0 < gone["numbers"]
    for name, change in {"nowhere": nowhere, "unknown": unknown}.items():
        lost = changed(name, change)[1]
        assert lost["within"] == 0 < lost["numbers"], name
    save_file({"w": np.zeros((2, 3), np.float32)}, tmp_path / "gone/models/mgpt/base/model.safetensors")
    others = evidence.other_models(tmp_path / "gone", archive.parent)
    assert others == ["mgpt"] and evidence.other_models(run, archive.parent) == []
    said = evidence.compared_in_words(evidence.compare_evidence(run, archive.parent), others)
    assert said[0].startswith("beside the archived run, which is of another model (mgpt): 3 of 3 verdicts alike")


def test_the_workflow_says_it_and_never_fails_of_it(run, archive, monkeypatch, tmp_path):
    from xlingtox.runs.workflow import _say_beside

    said = []
    monkeypatch.setattr(evidence, "evidence_dir", lambda: archive.parent)
    _say_beside(run, said.append)
    assert said[0].startswith("beside the archived run: 3 of 3 verdicts alike")
    (tmp_path / "laptop").mkdir()
    (tmp_path / "laptop/manifest.json").write_text("{")
    monkeypatch.setattr(evidence, "evidence_dir", lambda: tmp_path)
    _say_beside(run, said.append)
    assert "could not be compared" in said[-1]


def test_the_report_has_it_as_a_column(run, archive, monkeypatch, tmp_path):
    monkeypatch.setattr(evidence, "evidence_dir", lambda: tmp_path / "none")
    without = report.build_report(run, tmp_path / "without")
    monkeypatch.setattr(evidence, "evidence_dir", lambda: archive.parent)
    with_it = report.build_report(run, tmp_path / "with")
    for name in ("index.html", "li2024.html"):
        before, after = (page.with_name(name).read_text() for page in (without, with_it))
        assert "on a processor</th>" not in before and after.count("Real 6e-06 M on a processor</th>") >= 1
        assert after.count('data-label="Real 6e-06 M on a processor"') >= 3


@pytest.mark.parametrize("left_out, thirds, limited", [(0.7, 0.6, True), (0.85, 0.6, True), (0.7, 0.9, True), (0.85, 0.9, False)])
def test_a_pilot_is_called_one_until_its_card_is_good(run, monkeypatch, tmp_path, left_out, thirds, limited):
    monkeypatch.setattr(evidence, "evidence_dir", lambda: tmp_path / "none")
    write_table(card(left_out, thirds), run / "scorer_card/all.parquet")
    try:
        pages = [path.read_text() for path in report.build_report(run, tmp_path / "report").parent.glob("*.html")]
        assert all((PILOT in page) == limited for page in pages)
        captions = [caption for page in pages for caption in page.split("<figcaption>")[1:] + page.split('<p class="caption">')[1:]]
        assert len(captions) == 3 and all((f"{PILOT}." in caption.split("</")[0]) == limited for caption in captions)
        about = read_json(evidence.keep_evidence(run, tmp_path / "kept") / "manifest.json")
        assert bool(about["pilot"]) == limited and json.dumps(about)
    finally:
        write_table(card(0.7, 0.6), run / "scorer_card/all.parquet")
