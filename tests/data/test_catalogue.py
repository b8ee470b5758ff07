"""The list of data sets, downloads on a bad day, checks, and the commands on real data."""
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from xlingtox import data, models
from xlingtox.babel.draw import KINDS
from xlingtox.core import InputError
from xlingtox.data import catalogue

CONTENT = bytes(range(256)) * 3000
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server:
    "A file server that can forget ranges, cut the line, fail, or send something else; it writes down what was asked"

    def __init__(self):
        self.files, self.ranges, self.cut_after, self.status, self.asked = {"big.bin": CONTENT}, True, [], 200, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, self.headers.get("Range")))
                if outer.status != 200 or self.path[1:] not in outer.files:
                    self.send_response(outer.status if outer.status != 200 else 404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body, first = outer.files[self.path[1:]], 0
                if outer.ranges and (m := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")):
                    first = int(m[1])
                if first and first >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(body) - first))
                self.end_headers()
                end = first + outer.cut_after.pop(0) if outer.cut_after else len(body)
                self.wfile.write(body[first:end])
                if end < len(body):
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_download(server, tmp_path):
    path = tmp_path / "deep" / "big.bin"
    catalogue.download(server.address + "/big.bin", path, SHA)
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["big.bin"]
    git = "git:" + hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    assert catalogue.is_released(path, SHA) and catalogue.is_released(path, git) and not catalogue.is_released(path, "git:00")


def test_a_file_without_an_end_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "MOST_FILE", 500_000)
    with pytest.raises(catalogue.DownloadError, match=r"big\.bin: sends more than .* MiB, .* nothing is kept"):
        catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".big.bin.part").write_bytes(CONTENT[:400_000])  # what was fetched before counts
    with pytest.raises(catalogue.DownloadError, match="nothing is kept"):
        catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_line_is_taken_up_again(server, tmp_path, ranges):
    server.cut_after, server.ranges = [300_000, 100_000], ranges
    catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert [r for _, r in server.asked] == ([None, "bytes=300000-", "bytes=400000-"] if ranges else [None, "bytes=300000-", "bytes=100000-"])


def test_the_next_call_continues(server, tmp_path):
    server.cut_after = [200_000] * 3
    with pytest.raises(catalogue.DownloadError, match="what has come is kept, and the same command continues"):
        catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert not (tmp_path / "big.bin").exists() and (tmp_path / ".big.bin.part").stat().st_size == 600_000
    catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert server.asked[-1][1] == "bytes=600000-" and (tmp_path / "big.bin").read_bytes() == CONTENT
    (tmp_path / ".two.bin.part").write_bytes(CONTENT)  # killed between the last byte and the renaming
    catalogue.download(server.address + "/big.bin", tmp_path / "two.bin", SHA)
    assert (tmp_path / "two.bin").read_bytes() == CONTENT and server.asked[-1][1] == f"bytes={len(CONTENT)}-"


def test_what_is_not_the_released_file_is_not_kept(server, tmp_path):
    (tmp_path / ".big.bin.part").write_bytes(b"the beginning of another file")
    with pytest.raises(catalogue.DownloadError, match="is not the released file"):
        catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert list(tmp_path.iterdir()) == []
    server.status = 503
    with pytest.raises(catalogue.DownloadError, match="the server answers 503"):
        catalogue.download(server.address + "/big.bin", tmp_path / "big.bin", SHA)
    assert list(tmp_path.iterdir()) == []


def xlingtox(*arguments, cwd=None, **env):
    done = subprocess.run([sys.executable, "-m", "xlingtox.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env})
    return done.returncode, done.stdout, done.stderr


def test_the_list_is_whole():
    table, files = catalogue.data_sets(), catalogue.released_files()
    assert table.index.is_unique and set(files["name"]) <= set(table.index) and not files.duplicated(["name", "file"]).any()
    for name, row in table.iterrows():
        assert row["schema"] in data.SCHEMAS and row["licence"] and row["page"].startswith("https://") and row["used_by"], name
        assert row["base"] or row["how"], f"{name}: no way to get it"
        assert bool(row["base"]) == (name in set(files["name"])), name
        assert re.search("[0-9a-f]{40}", row["base"]) or not row["base"], f"{name}: not at a fixed commit"
        if row["source"]:
            assert catalogue.schema_of(row["source"].format(folder="F")) == row["schema"]
            data.source_settings(row["source"].format(folder="F"))
    assert files["checksum"].str.fullmatch("|sha256:[0-9a-f]{64}|git:[0-9a-f]{40}").all()


def test_list_and_help():
    code, out, err = xlingtox("data", "list", "--json")
    assert (code, err) == (0, "") and {row["name"] for row in json.loads(out)} == set(catalogue.data_sets().index)
    code, out, _ = xlingtox("data", "list")
    assert code == 0 and "xlingtox data get parallel-prompts --to FOLDER" in out and "Log in to Kaggle" in out
    assert "  list " in xlingtox("data", "--help")[1] and "  data " in xlingtox("--help")[1]


def test_get(server, tmp_path, monkeypatch):
    row = catalogue.data_sets().loc[["parallel-prompts"]]
    monkeypatch.setattr(catalogue, "data_sets", lambda: row)
    content = b'{"Prompt": "What a liar"}\n'
    listed = pd.DataFrame({"name": "parallel-prompts", "file": [f"dpo_toxicity_pairwise_{lang}_200.jsonl" for lang in ("en", "de")],
                           "checksum": "sha256:" + hashlib.sha256(content).hexdigest()})
    monkeypatch.setattr(catalogue, "released_files", lambda name=None: listed)
    server.files = dict.fromkeys(listed["file"], content)
    source = catalogue.get("parallel-prompts", tmp_path, server.address)
    assert source == f"parallel-prompts:{tmp_path}/parallel-prompts" and len(data.load_data(source)) == 2
    assert catalogue.check(source)[1] == ["prompts, 2 rows, languages: 2", "2 of 2 files are the released ones"]
    asked = len(server.asked)
    assert catalogue.get("parallel-prompts", tmp_path, server.address) == source and len(server.asked) == asked, "what is there is not fetched"
    file = tmp_path / "parallel-prompts" / listed["file"][0]
    file.write_text('{"Prompt": "mine"}\n')
    with pytest.raises(InputError, match="dpo_toxicity_pairwise_en_200.jsonl: is not the released file; move it away"):
        catalogue.get("parallel-prompts", tmp_path, server.address)
    assert "mine" in file.read_text()
    assert catalogue.check(source)[1][1] == "1 of 2 files are the released ones; not dpo_toxicity_pairwise_en_200.jsonl"
    file.unlink()
    assert catalogue.check(source)[1][1] == "1 of 1 files are the released ones; 1 of the release are not there: dpo_toxicity_pairwise_en_200.jsonl"


def test_get_says_what_to_do(server, tmp_path):
    code, out, err = xlingtox("data", "get", "jigsaw", "--to", tmp_path)
    assert (code, out) == (1, "") and "Log in to Kaggle" in err and "https://www.kaggle.com" in err and "jigsaw:FOLDER" in err and err.count("\n") == 1
    code, out, err = xlingtox("data", "get", "davidson2017", "--to", tmp_path, "--mirror", server.address)
    assert (code, out) == (1, "") and "labeled_data.csv: the server answers 404" in err and err.count("\n") == 1
    server.files = {"labeled_data.csv": b"class,tweet\n0,a\n"}
    code, out, err = xlingtox("data", "get", "davidson2017", "--to", tmp_path, "--mirror", server.address)
    assert (code, out) == (1, "") and "is not the released file" in err
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_real_files_are_the_released_ones(real_data):
    for folder, source, n in [("parallel_prompts", "parallel-prompts:", 17), ("paradetox_splits", "paradetox:", 36),
                              ("hate_corpora", "hate:davidson2017@", 1), ("hate_corpora", "hate:ibrohim2019@", 1)]:
        assert catalogue.check(f"{source}{real_data}/{folder}")[1][1] == f"{n} of {n} files are the released ones"


def test_check(tmp_path):
    (tmp_path / "mine.csv").write_text("id,lang,text,toxic\na,en,you liar,True\nb,en,,False\nc,en,,False\nd,fr,merci,False\n")
    table, remarks = catalogue.check(str(tmp_path / "mine.csv"))
    assert table.to_dict("records") == [{"lang": "en", "rows": 3, "distinct": 2, "characters": 8 / 3, "toxic": 1 / 3},
                                        {"lang": "fr", "rows": 1, "distinct": 1, "characters": 5, "toxic": 0}]
    assert remarks == ["labelled, 4 rows, languages: 2", "2 texts are empty"]
    assert catalogue.check(str(tmp_path / "mine.csv"), "prompts", ["fr"])[1] == ["prompts, 1 rows, languages: 1"]
    assert catalogue.check("babel:preference", n=4)[1] == ["preference, 4 rows, languages: 1"]
    (tmp_path / "odd.csv").write_text("id,words\n1,a\n")
    with pytest.raises(InputError, match=r"its columns id words are those of no schema; there are prompts \(id lang text\)"):
        catalogue.check(str(tmp_path / "odd.csv"))
    with pytest.raises(InputError, match="no schema named 'prompt'; there are prompts"):
        catalogue.check(str(tmp_path / "mine.csv"), "prompt")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_babel_is_checked_or_says_what_it_lacks(kind):
    "As `xlingtox data check babel:KIND --lang en` does, with what a profile would give where it must"
    source, needed = f"babel:{kind}", {"n": 5} if kind == "corpus" else {}
    schema = catalogue.schema_of(source)
    assert schema in data.SCHEMAS and "langs" not in data.source_settings(source)
    assert catalogue.check(source, None, ["en"], **needed)[1][0].startswith(f"{schema}, ")
    with pytest.raises(InputError):
        catalogue.check(source, "scores", ["en"], **needed)
    for call in (data.source_settings, catalogue.schema_of, catalogue.check, data.load_data):
        with pytest.raises(InputError, match="babel has no data kind 'nonsense'; it has corpus"):
            call("babel:nonsense")


@pytest.mark.parametrize("arguments, message", [
    (("data", "get", "jigsow", "--to", "."), "no data set named 'jigsow'; there are rtp-lx"),
    (("data", "get", "rtp-lx", "--to", "."), "rtp-lx: is in the way; a folder of that name is to be made"),
    (("data", "get", "rtp-lx"), "Missing option '--to'"),
    (("data", "check", "rtp-lx:unsafe.zip"), "unsafe.zip: refused, the member ../RTP_LX_EN.json leads out of the zip"),
    (("data", "check", "pairs.csv"), "pairs.csv: no such file"),
    (("data", "check", "babel:nonsense"), "babel has no data kind 'nonsense'; it has corpus"),
    (("data", "check", "babel:corpus"), "babel:corpus: lacks the setting n"),
    (("data", "check", "babel:labelled", "--lang", "xx"), "babel does not support xx"),
    (("data", "check", "broken.jsonl"), "broken.jsonl, line 2"),
    (("generate", "--model", "m", "--prompts", "rtp-lx:unsafe.zip", "--out", "g.csv"), "unsafe.zip: refused"),
    (("generate", "--model", "m", "--prompts", "p.csv", "--lang", "sv", "--out", "g.csv"), "p.csv: has no rows for sv; it has en"),
    (("generate", "--model", "m", "--prompts", "p.csv", "--out", "./p.csv"), "--out p.csv: is the file that is read"),
    (("retrieval", "--model", "m", "--texts", "parallel-prompts:.", "--out", "r.csv"), ".: holds no dpo_toxicity_pairwise"),
    (("retrieval", "--model", "m", "--texts", "p.csv", "--source", "de", "--out", "folder.csv"), "--out folder.csv: is a folder"),
    (("retrieval", "--model", "m", "--texts", "p.csv", "--source", "de", "--out", "r.csv"), "p.csv: has nothing in de, the language that is searched"),
    (("retrieval", "--model", "m", "--texts", "broken.jsonl", "--out", "r.csv"), "broken.jsonl, line 2"),
])
def test_bad_input(tmp_path, arguments, message):
    import zipfile

    with zipfile.ZipFile(tmp_path / "unsafe.zip", "w") as file:
        file.writestr("../RTP_LX_EN.json", "{}")
    (tmp_path / "rtp-lx").write_text("")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "p.csv").write_text("id,lang,text\na,en,hello\n")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a":\n')
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = xlingtox(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err[-2000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == before


# -- texts through the commands, with a model that knows nothing

@pytest.fixture(scope="module")
def model(toy_model, toy_tokenizer, tmp_path_factory):

    folder = tmp_path_factory.mktemp("model") / "toy"
    models.save(toy_model("gpt2"), toy_tokenizer, folder)  # 128 positions
    return folder


@pytest.mark.slow
def test_texts_that_are_too_long(model, tmp_path):
    rows = [("a", "en", "hello"), ("a", "de", "hallo"), ("b", "en", "good day"), ("b", "de", "x1 " * 200), ("c", "en", "bye"), ("c", "de", "tschüss")]
    pd.DataFrame(rows, columns=["id", "lang", "text"]).to_csv(tmp_path / "p.csv", index=False)
    for command in (("generate", "--k", 2, "--prompts"), ("retrieval", "--texts")):
        arguments = (*command, "p.csv", "--model", model, "--out", "out.csv")
        code, out, err = xlingtox(*arguments, cwd=tmp_path)
        assert (code, out) == (2, "") and re.search(r"text de b has \d+ tokens.*context of 128; --skip-long leaves out the 1 texts", err), err
        assert not (tmp_path / "out.csv").exists()
        code, out, err = xlingtox(*arguments, "--skip-long", cwd=tmp_path)
        df, alone = pd.read_csv(tmp_path / "out.csv"), command[0] == "generate"
        assert code == 0 and f"{1 if alone else 2} of 6 texts are left out: 1 exceed the model's context of 128" in err
        if alone:
            assert df.groupby("lang")["prompt_id"].agg(set).to_dict() == {"de": {"a", "c"}, "en": {"a", "b", "c"}}
        else:
            assert set(df["lang"]) == {"de"} and df["accuracy"].between(0, 1).all()
        (tmp_path / "out.csv").unlink()


@pytest.mark.slow
def test_pairs_are_searched_within_their_language(model, tmp_path):
    pairs = [(f"p{i}", lang, "train", f"{word} {i}", f"{word} {i}") for lang, word in (("de", "Lügner"), ("en", "liar")) for i in range(4)]
    df = pd.DataFrame(pairs, columns=["id", "lang", "split", "toxic", "neutral"])
    df.loc[df["lang"] == "en", "neutral"] = ["liar 1", "liar 0", "liar 3", "liar 2"]  # exchanged, so that none is found
    df.to_csv(tmp_path / "pairs.csv", index=False)
    code, _, err = xlingtox("retrieval", "--model", model, "--texts", "pairs.csv", "--out", "r.csv", cwd=tmp_path)
    assert code == 0, err[-2000:]
    found = pd.read_csv(tmp_path / "r.csv").set_index(["lang", "layer"])
    assert (found.loc["de", "accuracy"] == 1).all() and (found.loc["en", "accuracy"] == 0).all() and len(found) == 2 * 4
    assert found.loc["de", "cosine"].tolist() == pytest.approx([1] * 4, abs=1e-6)  # sums in float32, in an order of the processor's
    code, _, err = xlingtox("retrieval", "--model", model, "--texts", "pairs.csv", "--lang", "de", "--out", "d.csv", cwd=tmp_path)
    assert code == 0 and set(pd.read_csv(tmp_path / "d.csv")["lang"]) == {"de"}, err[-2000:]


@pytest.mark.parametrize("source, rows, n_lang", [("parallel-prompts:{}/parallel_prompts", 3400, 16), ("paradetox:{}/paradetox_splits", 7200, 9)])
def test_real_texts_go_through(model, real_data, tmp_path, source, rows, n_lang):
    source = source.format(real_data)
    code, _, err = xlingtox("generate", "--model", model, "--prompts", source, "--k", 1, "--skip-long", "--out", "g.parquet", cwd=tmp_path)
    assert code == 0, err[-2000:]
    found = re.search(r"(\d+) of (\d+) texts are left out", err)
    assert int(found[2]) == rows
    assert len(pd.read_parquet(tmp_path / "g.parquet")) == rows - int(found[1])
    cache = {"XLINGTOX_CACHE": str(tmp_path / "cache")}
    code, out, said = xlingtox("score", "--in", "g.parquet", "--scorer", "lexicon:babel", "--out", "s.parquet", cwd=tmp_path, **cache)
    assert (code, out) == (0, "") and said.startswith("lexicon:babel knows few of the words of these texts"), "they are of another world"
    code, out, _ = xlingtox("metrics", "--in", "s.parquet", "--json", cwd=tmp_path)
    assert code == 0 and {row["lang"] for row in json.loads(out)} == set(pd.read_parquet(tmp_path / "g.parquet")["lang"])
    code, _, err = xlingtox("retrieval", "--model", model, "--texts", source, "--skip-long", "--out", "r.csv", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "r.csv")
    assert code == 0 and len(table) == n_lang * 4 and table["accuracy"].between(0, 1).all() and table["cosine"].between(-1, 1).all()
