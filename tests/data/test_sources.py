"""Published data: what each loader makes of the released form, the splits of the papers, and every bad input."""
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from xlingtox import data, profiles
from xlingtox.core import InputError
from xlingtox.data import hate, sources

CRC = []
for _n in range(256):
    for _ in range(8):
        _n = _n >> 1 ^ 0xEDB88320 * (_n & 1)
    CRC.append(_n)


def encrypt(raw: bytes, password: bytes) -> bytes:
    "The old encryption of zip files, which zipfile reads but does not write"
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte):
        keys[0] = keys[0] >> 8 ^ CRC[(keys[0] ^ byte) & 255]
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = keys[2] >> 8 ^ CRC[(keys[2] ^ keys[1] >> 24) & 255]

    for byte in password:
        update(byte)
    out = bytearray()
    for byte in bytes(11) + bytes([zlib.crc32(raw) >> 24]) + raw:
        mixed = (keys[2] | 2) & 0xFFFF
        out.append(byte ^ (mixed * (mixed ^ 1) >> 8) & 255)
        update(byte)
    return bytes(out)


def write_zip(path, files: dict, password: str = "", method: int = 0):
    "A zip with stored members, encrypted where there is a password; a method of 99 stands for AES"
    body, directory = b"", b""
    for name, text in files.items():
        raw, name = text.encode(), name.encode()
        kept = encrypt(raw, password.encode()) if password else raw
        common = struct.pack("<4H3L2H", int(bool(password)), method, 0, 0x21, zlib.crc32(raw), len(kept), len(raw), len(name), 0)
        directory += b"PK\1\2" + struct.pack("<2H", 20, 20) + common + struct.pack("<3H2L", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + struct.pack("<H", 20) + common + name + kept
    path.write_bytes(body + directory + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, len(files), len(files), len(directory), len(body), 0))
    return path


def lines(*rows) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def prompt(text, **fields):
    return {"Prompt": text, "Completion": "", "Index": 0, **fields}


EN = lines(prompt("What a liar"), prompt("That clown,\u2028he said"))  # the separator is no line break in JSON lines
RTP = {"RTP-LX/RTP_LX_EN.json": EN, "RTP-LX/RTP_LX_ZH-Hans.json": lines(prompt("这个骗子")), "RTP-LX/RTP_LX_DA.json": lines(prompt("en løgner")),
       "RTP-LX/RTP_LX_ZH-Hant.json": lines(prompt("這個騙子")), "RTP-LX/RTP_LX_PT-BR.json": lines(prompt("Esse ladrão"))}


def write_folder(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def no_password(monkeypatch):
    monkeypatch.delenv("RTP_LX_PASSWORD", raising=False)


# -- RTP-LX

@pytest.mark.parametrize("password", ["", "a-b-entries-4/8/24", "Schlüssel"])
def test_rtp_lx_zip_and_folder_are_the_same(tmp_path, monkeypatch, password):
    monkeypatch.setenv("RTP_LX_PASSWORD", password)
    path = write_zip(tmp_path / "RTP-LX.zip", RTP, password)
    for name, text in RTP.items():
        write_folder(tmp_path / "folder", {name.split("/")[1]: text})
    df = data.load_data(f"rtp-lx:{path}")
    assert df.to_dict("list") == {"id": ["en-1", "en-2", "pt-br-1", "zh-hans-1"], "lang": ["en", "en", "pt", "zh"],
                                  "text": ["What a liar", "That clown,\u2028he said", "Esse ladrão", "这个骗子"]}
    pd.testing.assert_frame_equal(data.load_data(f"rtp-lx:{tmp_path}/folder"), df)
    assert data.load_data(f"rtp-lx:{path}", languages=["zh"])["text"].tolist() == ["这个骗子"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["RTP-LX.zip", "folder"], "nothing is unpacked"


def test_zip_as_a_common_tool_writes_it(tmp_path, monkeypatch):
    if not shutil.which("zip"):
        pytest.skip("no zip command")
    for name, text in RTP.items():
        write_folder(tmp_path, {name: text * 50})
    subprocess.run(["zip", "-q", "-r", "-P", "secret", "RTP-LX.zip", "RTP-LX"], cwd=tmp_path, check=True)
    monkeypatch.setenv("RTP_LX_PASSWORD", "secret")
    assert len(data.load_data(f"rtp-lx:{tmp_path}/RTP-LX.zip", languages=["en"])) == 100


def test_password_missing_or_wrong(tmp_path, monkeypatch, no_password):
    path = write_zip(tmp_path / "RTP-LX.zip", RTP, "right")
    with pytest.raises(InputError, match="RTP-LX.zip: is protected by a password; put it into the environment variable RTP_LX_PASSWORD"):
        sources.rtp_lx(path)
    past_the_first_check = 0
    for i in range(600):  # one wrong password in 256 passes zip's own check, and shows only in the content
        monkeypatch.setenv("RTP_LX_PASSWORD", f"no-{i}-secret")
        with pytest.raises(InputError, match=r"RTP_LX_EN.json: wrong password in RTP_LX_PASSWORD, or a damaged file") as e:
            sources.rtp_lx(path, ["en"])
        assert f"no-{i}-secret" not in str(e.value) and "\n" not in str(e.value)
        with zipfile.ZipFile(path) as file:
            try:
                file.read(next(iter(RTP)), pwd=f"no-{i}-secret".encode())
            except zipfile.BadZipFile:
                past_the_first_check += 1
            except RuntimeError:
                pass
    assert past_the_first_check


@pytest.mark.parametrize("name", ["../RTP_LX_EN.json", "a/../../RTP_LX_EN.json", "/tmp/RTP_LX_EN.json", "C:/RTP_LX_EN.json", "..\\RTP_LX_EN.json"])
def test_a_member_that_leads_out_condemns_the_zip(tmp_path, name):
    path = write_zip(tmp_path / "RTP-LX.zip", {"RTP_LX_DE.json": EN, name: EN})
    with pytest.raises(InputError, match="RTP-LX.zip: refused, the member .* leads out of the zip"):
        sources.rtp_lx(path, ["de"])
    assert [p.name for p in tmp_path.iterdir()] == ["RTP-LX.zip"]


def test_zips_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RTP_LX_PASSWORD", "secret")
    with pytest.raises(InputError, match="is encrypted with AES, which Python's zipfile cannot read; unpack the file with a tool such as 7-Zip"):
        sources.rtp_lx(write_zip(tmp_path / "aes.zip", RTP, "secret", method=99))
    with pytest.raises(InputError, match="RTP_LX_EN.json cannot be read .*; unpack"):
        sources.rtp_lx(write_zip(tmp_path / "deflate64.zip", RTP, "", method=9))
    whole = write_zip(tmp_path / "whole.zip", RTP).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut.zip: not a zip file, or cut off"):
        sources.rtp_lx(tmp_path / "cut.zip")
    (tmp_path / "hurt.zip").write_bytes(whole.replace(b"liar", b"lion"))
    with pytest.raises(InputError, match="RTP_LX_EN.json: damaged"):
        sources.rtp_lx(tmp_path / "hurt.zip")


@pytest.mark.parametrize("files, message", [
    ({"RTP_LX_XX.json": EN}, "unknown locale XX in RTP_LX_XX.json; known are AR CS"),
    ({"RTP_LX_PT.json": EN, "RTP_LX_PT-BR.json": EN}, "RTP_LX_PT-BR.json and RTP_LX_PT.json are both pt; keep one"),
    ({"RTP_LX_DA.json": EN}, "holds no RTP_LX_<LOCALE>.json in a language of ar cs"),
    ({}, "holds no RTP_LX_<LOCALE>.json"),
    ({"RTP_LX_EN.json": ""}, "RTP_LX_EN.json: is empty"),
    ({"RTP_LX_EN.json": EN + "{\n"}, "RTP_LX_EN.json, line 3, column 2: not JSON"),
    ({"RTP_LX_EN.json": EN + "\n[1]\n"}, "RTP_LX_EN.json, line 4: expected an object, found list"),
    ({"RTP_LX_EN.json": lines({"prompt": "a"})}, "RTP_LX_EN.json, line 1: lacks the field Prompt; it has prompt"),
    ({"RTP_LX_EN.json": EN + lines(prompt(3))}, "RTP_LX_EN.json, line 3: Prompt is not text but 3"),
    ({"RTP_LX_EN.json": EN + lines(prompt("NA"))}, "RTP_LX_EN.json, line 3: the Prompt is 'NA', a placeholder"),
    ({"RTP_LX_EN.json": "{\"Prompt\": \"voil\xe0\"}".encode("latin-1")}, r"RTP_LX_EN.json, line 1: not UTF-8 \(byte 0xe0\)"),
])
def test_bad_rtp_lx(tmp_path, files, message):
    folder = write_folder(tmp_path / "rtp", files)
    folder.mkdir(exist_ok=True)
    with pytest.raises(InputError, match=message) as e:
        data.load_data(f"rtp-lx:{folder}")
    assert "\n" not in str(e.value)


def test_languages_and_schemas_that_a_source_lacks(tmp_path):
    write_folder(tmp_path, {"RTP_LX_EN.json": EN})
    with pytest.raises(InputError, match="does not support sv; it supports en"):
        data.load_data(f"rtp-lx:{tmp_path}", languages=["en", "sv"])
    with pytest.raises(InputError, match="gives prompts, not preference"):
        data.load_data(f"rtp-lx:{tmp_path}", "preference")
    with pytest.raises(InputError, match="none: no such file or folder"):
        data.load_data(f"rtp-lx:{tmp_path}/none")


# -- preference pairs

PAIR = {"prompt_text": "He said", "unpert_gen_text": " hello", "pert_gen_text": " idiot", "prompt_input_ids": [1, 2], "pert_gen_toks": [3]}


def test_preference_pairs(tmp_path):
    write_folder(tmp_path, {"split_1.jsonl": lines(PAIR), "split_0.jsonl": lines(PAIR, {**PAIR, "unpert_gen_text": ""}), "notes.txt": "x"})
    df = data.load_data(f"preference-pairs:{tmp_path}", "preference")
    assert df.to_dict("list") == {"id": ["split_0-1", "split_0-2", "split_1-1"], "lang": ["en"] * 3, "prompt": ["He said"] * 3,
                                  "chosen": [" hello", "", " hello"], "rejected": [" idiot"] * 3}


@pytest.mark.parametrize("files, message", [
    ({}, "holds no .jsonl file"),
    ({"a.jsonl": lines(PAIR), "b.jsonl": " \n"}, "b.jsonl: is empty"),
    ({"a.jsonl": lines(PAIR), "b.jsonl": lines(PAIR) + "{'prompt_text': 1}\n"}, "b.jsonl, line 2, column 2: not JSON"),
    ({"a.jsonl": lines({k: v for k, v in PAIR.items() if k != "pert_gen_text"})}, "a.jsonl, line 1: lacks the field pert_gen_text; it has prompt_text"),
    ({"a.jsonl": lines({**PAIR, "pert_gen_text": None})}, "a.jsonl, line 1: pert_gen_text is not text but None"),
])
def test_bad_preference_pairs(tmp_path, files, message):
    write_folder(tmp_path, files)
    with pytest.raises(InputError, match=message):
        data.load_data(f"preference-pairs:{tmp_path}", "preference")
    with pytest.raises(InputError, match="none: no such folder"):
        data.load_data(f"preference-pairs:{tmp_path}/none", "preference")


# -- pairs from the hub, and the two splits of Beniwal et al.

def write_hub(folder, tables):
    (folder / "data").mkdir(parents=True)
    for lang, df in tables.items():
        df.rename(columns={"toxic": "toxic_sentence", "neutral": "neutral_sentence"}).to_parquet(folder / f"data/{lang}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = {lang: pd.DataFrame({"toxic": [f"{lang} liar {i}" for i in range(400)], "neutral": [f"{lang} friend {i}" for i in range(400)]})
            for lang in ("en", "am")}
    return write_hub(tmp_path / "hub", rows), rows


def test_both_splits_are_those_of_the_released_code(hub):
    import datasets

    folder, rows = hub
    state = np.random.get_state()
    np.random.seed(42)  # as the released scripts do
    x_ft = np.random.permutation(400)
    np.random.set_state(state)
    p_ft = datasets.Dataset.from_pandas(rows["am"]).shuffle(seed=42)
    for shuffle, expected in {"numpy": rows["am"]["toxic"].iloc[x_ft].tolist(), "datasets": p_ft["toxic"][:]}.items():
        df = data.load_data(f"hf:{folder}", "parallel", ["am"], shuffle=shuffle)
        assert df["toxic"].tolist() == expected and df["split"].tolist() == ["train"] * 300 + ["test"] * 100
        assert (df["toxic"].str.replace("liar", "friend") == df["neutral"]).all(), "the pairs stay pairs"
    assert data.load_data(f"hf:{folder}", "prompts", splits=["test"])["id"].str.startswith("test").all()
    assert set(data.load_data(f"hf:{folder}", "labelled")["lang"]) == {"am", "en"}


def write_released(folder, df):
    folder.mkdir(parents=True, exist_ok=True)
    for (lang, split), group in df.groupby(["lang", "split"]):
        for side in ("toxic", "neutral"):
            group[side].to_csv(folder / f"{lang}_{split}_{side}.csv", index=False, header=False)
    return folder


def test_the_released_files_lead_back_to_the_other_split(hub, tmp_path):
    folder, _ = hub
    released = write_released(tmp_path / "released", data.load_data(f"hf:{folder}", "parallel"))
    for shuffle in ("datasets", "numpy"):
        pd.testing.assert_frame_equal(data.load_data(f"paradetox:{released}", "parallel", shuffle=shuffle),
                                                 data.load_data(f"hf:{folder}", "parallel", shuffle=shuffle))
    half = data.load_data(f"paradetox:{released}", "preference", ["en"], shuffle="numpy", splits=["test"])
    assert len(half) == 100 and half["rejected"].str.contains("liar").all()


def test_real_splits(real_data, tmp_path, monkeypatch):
    "The released files hold the rows of the hub, byte for byte, and either form gives either split"
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = f"paradetox:{real_data}/paradetox_splits"
    p_ft, x_ft = (data.load_data(source, "parallel", shuffle=s) for s in ("datasets", "numpy"))
    hub_bytes = {"en": 47435, "ru": 89453, "uk": 78106, "de": 86818, "es": 56868, "am": 133489, "zh": 79089, "ar": 85237, "hi": 107518}  # its card
    held = {lang: sum(len(t.encode()) + 4 for side in ("toxic", "neutral") for t in g[side]) for lang, g in p_ft.groupby("lang")}
    assert held == hub_bytes
    inverse = np.argsort(np.random.RandomState(42).permutation(400))
    first_order = {lang: g[["toxic", "neutral"]].iloc[inverse].reset_index(drop=True) for lang, g in x_ft.groupby("lang")}
    folder = write_hub(tmp_path / "hub", first_order)
    for shuffle, expected in {"datasets": p_ft, "numpy": x_ft}.items():
        pd.testing.assert_frame_equal(data.load_data(f"hf:{folder}", "parallel", shuffle=shuffle), expected)
    assert not p_ft.equals(x_ft)


def test_bad_pairs(hub, tmp_path):
    folder, rows = hub
    for call, message in [
        (lambda: data.load_data(f"hf:{folder}", "parallel", ["en", "sv"]), "does not support sv; it supports am en"),
        (lambda: data.load_data(f"hf:{folder}", "parallel", shuffle="both"), "shuffle 'both' is not known; there are datasets and numpy"),
        (lambda: data.load_data(f"hf:{folder}", "choice"), "gives parallel or labelled or prompts or preference, not choice"),
        (lambda: data.load_data(f"hf:{write_hub(tmp_path / 'few', {'en': rows['en'][:399]})}", "parallel"), "en: has 399 pairs; the split takes 300"),
        (lambda: data.load_data(f"hf:{write_hub(tmp_path / 'other', {'en': rows['en'].rename(columns={'toxic': 'bad'})})}", "parallel"),
         "split en: lacks the columns toxic_sentence; it has bad, neutral_sentence"),
        (lambda: data.load_data(f"hf:{write_hub(tmp_path / 'train', {'train': rows['en']})}", "parallel"), "has no split named after a language"),
        (lambda: data.load_data(f"hf:{write_folder(tmp_path / 'none', {'a.bin': 'x'})}", "parallel"), "not a data set in the form of the hub"),
    ]:
        with pytest.raises(InputError, match=message) as e:
            call()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("change, message", [
    (lambda f: (f / "en_test_neutral.csv").unlink(), "en_test_neutral.csv: no such file"),
    (lambda f: (f / "en_train_neutral.csv").write_text("one\ntwo\n"), "en train has 300 toxic but 2 neutral rows, so they do not pair"),
    (lambda f: (f / "en_train_neutral.csv").write_text("one\ntwo,three\n"),
     "en_train_neutral.csv, line 2: expected one column without a header, found 2 columns"),
    (lambda f: (f / "en_test_toxic.csv").write_bytes("ok\nvoil\xe0\n".encode("latin-1")), r"en_test_toxic.csv, line 2: not UTF-8 \(byte 0xe0\)"),
    (lambda f: (f / "en_test_toxic.csv").write_text(""), "en_test_toxic.csv: is empty"),
])
def test_bad_released_splits(tmp_path, change, message):
    rows = [{"lang": "en", "split": s, "toxic": f"liar {i}", "neutral": f"friend {i}"} for s, n in (("train", 300), ("test", 100)) for i in range(n)]
    folder = write_released(tmp_path / "p", pd.DataFrame(rows))
    change(folder)
    with pytest.raises(InputError, match=message):
        data.load_data(f"paradetox:{folder}", "parallel")


def test_only_the_released_rows_can_be_split_anew(tmp_path):
    rows = [{"lang": "en", "split": s, "toxic": f"liar {i}", "neutral": f"friend {i}"} for s, n in (("train", 350), ("test", 100)) for i in range(n)]
    folder = write_released(tmp_path / "p", pd.DataFrame(rows))
    assert len(data.load_data(f"paradetox:{folder}", "parallel")) == 450
    with pytest.raises(InputError, match=r"en has 350 \+ 100 pairs; only the released 300 \+ 100 can be brought back"):
        data.load_data(f"paradetox:{folder}", "parallel", shuffle="numpy")


@pytest.mark.parametrize("code, headers, message", [
    (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset some/set is restricted"}, "hf:some/set: is gated; accept its terms"),
    (404, {"X-Error-Code": "RepoNotFound"}, "hf:some/set: no such data set on the hub, or a private one"),
    (None, {}, "hf:some/set: the hub cannot be reached"),
])
def test_gated_unknown_and_offline(tmp_path, code, headers, message):
    "A hub that answers as the real one does, or one that is not there"
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"error": "no"}'
            found = "GatedRepo" in headers.values() and "/api/datasets/" in self.path and "/revision/" not in self.path and "/tree/" not in self.path
            if found:  # what it is may be known to all, and its files to few
                body = json.dumps({"id": "some/set", "sha": "a" * 40, "gated": "manual", "siblings": [{"rfilename": "data.csv"}]}).encode()
            self.send_response(200 if found else code)
            for name, value in ({} if found else headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    if code:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
    else:
        address = "http://127.0.0.1:9"  # discard: nobody listens
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0" if code else "1", "HF_TOKEN": ""}
    done = subprocess.run([sys.executable, "-m", "xlingtox.cli", "data", "check", "hf:some/set"], capture_output=True, text=True, env=environment)
    if code:
        server.shutdown()
    server.server_close()
    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-2000:]
    assert message in done.stderr.splitlines()[-1]


# -- Jigsaw

JIGSAW = {"train.csv": 'id,comment_text,toxic,threat\n01,"you are,\n\nan idiot",1,0\nNA,null,0,0\n', "test.csv": "id,comment_text\n11,clown\n12,hello\n13,x\n",
          "test_labels.csv": "id,toxic,threat\n11,1,0\n12,0,0\n13,-1,-1\n"}


def test_jigsaw(tmp_path):
    write_folder(tmp_path, JIGSAW)
    train = data.load_data(f"jigsaw:{tmp_path}", "labelled")
    assert train.to_dict("list") == {"id": ["train-01", "train-NA"], "lang": ["en", "en"], "text": ["you are,\n\nan idiot", "null"], "toxic": [True, False]}
    assert train["toxic"].dtype == bool
    assert data.load_data(f"jigsaw:{tmp_path}", "labelled", splits=["test"])["id"].tolist() == ["test-11", "test-12"], "-1 was never scored"
    assert data.load_data(f"jigsaw:{tmp_path}", "prompts", splits=["train", "test"]).columns.tolist() == ["id", "lang", "text"]


@pytest.mark.parametrize("files, message", [
    ({"train.csv": None}, "holds no train.csv$"),
    ({"train.csv": None, "train.csv.zip": b"PK"}, "holds no train.csv; unpack train.csv.zip"),
    ({"train.csv": "id,text,label\n1,a,0\n"}, "train.csv: lacks the columns comment_text, toxic; expected are id comment_text toxic, it has id text label"),
    ({"train.csv": "id,comment_text,toxic\n1,a,0\n2,b,-1\n"}, "train.csv, row 2: toxic is '-1', not one of 0 1"),
    ({"train.csv": "id,comment_text,toxic\n1,a,0\n1,b,1\n"}, "row 2: en train-1 occurs more than once"),
    ({"train.csv": 'id,comment_text,toxic\n1,"a,0\n'}, "train.csv, line 2: not CSV"),
    ({"train.csv": "id,comment_text,toxic\n1,a, b,0\n2,c, d,1\n"}, "train.csv, line 2: has 4 cells, and the header has 3"),
    ({"train.csv": "id,comment_text,toxic\n1,a,0\n2,b\n"}, "train.csv, line 3: has 2 cells, and the header has 3"),
    ({"train.csv": "id,comment_text,toxic\n1,voil\xe0,0\n".encode("latin-1")}, "train.csv, line 2: not UTF-8"),
    ({"test_labels.csv": "id,toxic\n11,1\n13,-1\n12,0\n"}, "test_labels.csv: its ids are not those of test.csv"),
    ({"test_labels.csv": None}, "test_labels.csv: no such file"),
])
def test_bad_jigsaw(tmp_path, files, message):
    write_folder(tmp_path, {k: v for k, v in {**JIGSAW, **files}.items() if v is not None})
    with pytest.raises(InputError, match=message):
        data.load_data(f"jigsaw:{tmp_path}", "labelled", splits=["train", "test"])
    with pytest.raises(InputError, match="splits does not support dev"):
        data.load_data(f"jigsaw:{tmp_path}", "labelled", splits=["dev"])


def test_suffixes_in_any_letters_are_read(tmp_path):
    "A file that is passed over would be fewer rows in silence"
    (tmp_path / "RTP_LX_en.json").write_text('{"Prompt": "one"}\n')
    (tmp_path / "rtp_lx_zh-hans.JSON").write_text('{"Prompt": "一"}\n')
    assert data.load_data(f"rtp-lx:{tmp_path}", "prompts")[["lang", "text"]].values.tolist() == [["en", "one"], ["zh", "一"]]


# -- PolygloToxicityPrompts

@pytest.fixture
def ptp(tmp_path):
    for lang in ("de", "fr"):
        (tmp_path / f"ptp-{lang}").mkdir()
        for shard in range(2):
            values = [None, 0.2, 0.5, *np.linspace(0, 1, 60)]
            pd.DataFrame({"text": [f"{lang} {shard} {v} and on" for v in values], "prompt": [f"{lang} {shard} {v}" for v in values], "toxicity": values,
                          "perspective": [{"a": 1}] * len(values)}).to_parquet(tmp_path / f"ptp-{lang}/full-0000{shard}-of-00002.parquet")
    return tmp_path


def test_ptp_takes_the_clear_cases_by_seed(ptp):
    df = data.load_data(f"ptp:{ptp}", "labelled", n=20)
    assert df.groupby(["lang", "toxic"]).size().to_dict() == {(lang, toxic): 20 for lang in ("de", "fr") for toxic in (True, False)}
    values = df["text"].str.split().str[2].astype(float)
    assert values[df["toxic"]].min() > 0.5 and values[~df["toxic"]].max() < 0.2 and df["text"].str.split().str[1].nunique() == 2
    pd.testing.assert_frame_equal(data.load_data(f"ptp:{ptp}", "labelled", n=20), df)
    assert not data.load_data(f"ptp:{ptp}", "labelled", n=20, seed=1).equals(df)
    beginnings = data.load_data(f"ptp:{ptp}", "prompts", ["fr"], n=20)
    assert beginnings["id"].tolist() == df[df["lang"] == "fr"]["id"].tolist() and not beginnings["text"].str.contains("and on").any()


def test_bad_ptp(ptp):
    with pytest.raises(InputError, match="de has 60 toxic texts, 5000 are wanted; set a smaller n"):
        data.load_data(f"ptp:{ptp}", "labelled")
    with pytest.raises(InputError, match=r"holds no ptp-<lang>/small-\*.parquet"):
        data.load_data(f"ptp:{ptp}", "labelled", part="small")
    with pytest.raises(InputError, match="does not support sv; it supports de fr"):
        data.load_data(f"ptp:{ptp}", "labelled", ["sv"], n=1)
    (ptp / "ptp-fr/full-00001-of-00002.parquet").write_text("nonsense")
    with pytest.raises(InputError, match="full-00001-of-00002.parquet: not a parquet file"):
        data.load_data(f"ptp:{ptp}", "labelled", n=20)
    pd.DataFrame({"text": ["a"]}).to_parquet(ptp / "ptp-fr/full-00001-of-00002.parquet")
    with pytest.raises(InputError, match="full-00001-of-00002.parquet: lacks the columns toxicity"):
        data.load_data(f"ptp:{ptp}", "labelled", n=20)


# -- hate speech corpora

def test_hate_corpora_by_their_table(tmp_path):
    write_folder(tmp_path, {
        "labeled_data.csv": ",count,class,tweet\n0,3,0,parasite\n1,3,1,clown\n2,3,2,NA\n",
        "re_dataset.csv": "Tweet,HS,Abusive\npembohong \xf0?,1,1\nsenang,0,0\n".encode("latin-1"),
        "final_data.csv": "text;sentiment;hate_speech\nлжец, он;-1;1\nпривет;1;0\n",
        "fr_hf_102024.csv": "text,labels,source\nmenteur,1.0,x\nbonjour,0.0,x\n", "pt_hf_102024.csv": "text,labels\nladrão,1\nbom dia,0\n",
        "MultiLanguageTrainDataset.csv": ",text,label,language\n0,Lügner,1.0,5.0\n1,jhoota,1.0,8.0\n2,menteur,0.0,4.0\n3,骗子,1.0,3.0\n",
    })
    found = {name: data.load_data(f"hate:{name}@{tmp_path}", "labelled") for name in hate.hate_corpora().index}
    seen = {name: list(zip(df["lang"], df["text"], df["toxic"], strict=True)) for name, df in found.items()}
    assert seen == {
        "davidson2017": [("en", "parasite", True), ("en", "NA", False)],
        "ibrohim2019": [("id", "pembohong ð?", True), ("id", "senang", False)],
        "saitov2021": [("ru", "лжец, он", True), ("ru", "привет", False)],
        "tonneau2024": [("fr", "menteur", True), ("fr", "bonjour", False), ("pt", "ladrão", True), ("pt", "bom dia", False)],
        "moosa2022": [("de", "Lügner", True), ("fr", "menteur", False), ("zh", "骗子", True)],  # Hindi in Latin letters is left out
    }
    wider = data.load_data(f"hate:davidson2017@{tmp_path}/labeled_data.csv", "labelled", toxic=["0", 1])
    assert wider["toxic"].tolist() == [True, True, False]
    assert data.load_data(f"hate:davidson2017@{tmp_path}", "labelled", toxic=["1"])["text"].tolist() == ["clown", "NA"]
    assert found["davidson2017"]["id"].tolist() == ["labeled_data-1", "labeled_data-3"]


@pytest.mark.parametrize("name, file, content, message", [
    ("davidson2018", "labeled_data.csv", "x", "give hate:NAME@PATH with one of the names davidson2017"),
    ("davidson2017", "other.csv", "x", r"holds no \*labeled_data.csv, the file of davidson2017"),
    ("davidson2017", "labeled_data.csv", "class,text\n0,a\n", "lacks the columns tweet; expected are tweet class, it has class text"),
    ("davidson2017", "labeled_data.csv", "class,tweet\n0,a\n7,b\n", "labeled_data.csv, row 2: class is '7', not one of"),
    ("davidson2017", "labeled_data.csv", "class,tweet\n0,voil\xe0\n".encode("latin-1"), "labeled_data.csv, line 2: not UTF-8"),
    ("davidson2017", "labeled_data.csv", "", "labeled_data.csv: is empty"),
    ("tonneau2024", "xx_hf_102024.csv", "text,labels\na,1\n", "unknown language xx"),
])
def test_bad_hate_corpora(tmp_path, name, file, content, message):
    write_folder(tmp_path, {file: content})
    with pytest.raises(InputError, match=message):
        data.load_data(f"hate:{name}@{tmp_path}", "labelled")


def test_hate_settings_and_languages(tmp_path):
    write_folder(tmp_path, {"labeled_data.csv": "class,tweet\n0,a\n2,b\n"})
    with pytest.raises(InputError, match="the column class does not support 9; it supports 0 1 2"):
        data.load_data(f"hate:davidson2017@{tmp_path}", "labelled", toxic=["9"])
    with pytest.raises(InputError, match="does not support de; it supports en"):
        data.load_data(f"hate:davidson2017@{tmp_path}", "labelled", ["de"])


def test_real_hate_corpora(real_data):
    davidson = data.load_data(f"hate:davidson2017@{real_data}/hate_corpora", "labelled")
    ibrohim = data.load_data(f"hate:ibrohim2019@{real_data}/hate_corpora", "labelled")
    assert davidson["toxic"].value_counts().to_dict() == {False: 4163, True: 1430}
    assert ibrohim["toxic"].value_counts().to_dict() == {False: 7608, True: 5561}
    assert len(data.load_data(f"hate:davidson2017@{real_data}/hate_corpora", "labelled", toxic=["0", "1"])) == 24783


# -- parallel prompts, files, lists and profiles

@pytest.mark.parametrize("files, message", [
    ({"en": ["a", "b"], "de": ["a"]}, "unequal length, so lines do not correspond: de 1, en 2"),
    ({"en": ["a"], "xx": ["a"]}, "unknown language xx"),
    ({}, "holds no dpo_toxicity_pairwise_<lang>_200.jsonl"),
    ({"en": ["a", None]}, "dpo_toxicity_pairwise_en_200.jsonl, line 2: Prompt is not text but None"),
])
def test_bad_parallel_prompts(tmp_path, files, message):
    write_folder(tmp_path, {f"dpo_toxicity_pairwise_{lang}_200.jsonl": lines(*({"Prompt": t} for t in texts)) for lang, texts in files.items()})
    with pytest.raises(InputError, match=message):
        data.load_data(f"parallel-prompts:{tmp_path}")


@pytest.mark.parametrize("name, content, message", [
    ("p.csv", "id,lang,text\na,en,x\na,en,y\n", "p.csv, row 2: en a occurs more than once"),
    ("p.csv", "id,lang,prompt\na,en,x\n", "p.csv: lacks the columns text; prompts needs id lang text, it has id lang prompt"),
    ("p.jsonl", '{"id": "a", "lang": "en", "text": "x"}\nnope\n', "p.jsonl, line 2, column 1: not JSON"),
    ("p.parquet", "nope", "p.parquet: not a parquet file"),
    ("p.txt", "nope", "p.txt: unknown kind of file '.txt'"),
])
def test_bad_files(tmp_path, name, content, message):
    write_folder(tmp_path, {name: content})
    for source in (f"file:{tmp_path}/{name}", f"{tmp_path}/{name}"):
        with pytest.raises(InputError, match=message):
            data.load_any(source, "prompts")


def test_several_sources_get_the_settings_that_they_take(tmp_path):
    write_folder(tmp_path / "jigsaw", JIGSAW)
    write_folder(tmp_path / "rtp", {"RTP_LX_EN.json": EN})
    df = data.load_data([f"jigsaw:{tmp_path}/jigsaw", f"rtp-lx:{tmp_path}/rtp"], "prompts", splits=["test"])
    assert df["id"].tolist() == ["0-test-11", "0-test-12", "1-en-1", "1-en-2"]


def test_profiles_know_the_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("RTP_LX_PASSWORD", "s3cret")
    write_zip(tmp_path / "RTP-LX.zip", RTP, "s3cret")
    write_folder(tmp_path, {"labeled_data.csv": "class,tweet\n0,a\n2,b\n"})
    (tmp_path / "mine.yaml").write_text("extends: mini\nlanguages: [en]\ndata:\n  prompts: {source: 'rtp-lx:./RTP-LX.zip', n: null}\n"
                                        "  preference: {source: 'hf:textdetox/multilingual_paradetox', n: null, shuffle: numpy, revision: abc}\n"
                                        "  labelled: {source: 'hate:davidson2017@./labeled_data.csv', n: null, toxic: ['0', '1']}\n")
    profile = profiles.load_profile(tmp_path / "mine.yaml")
    assert profile.data["labelled"].source == [f"hate:davidson2017@{tmp_path}/labeled_data.csv"]
    assert profiles.source_paths(profile.data["labelled"].source) == [tmp_path / "labeled_data.csv"]
    assert profiles.source_paths(profile.data["preference"].source) == [], "the hub is no file"
    settings = profiles.stage_settings(profile, "data", variant="prompts")
    assert "s3cret" not in json.dumps(settings) + profile.model_dump_json()
    before = profiles.settings_digest(profile, "data", variant="labelled")
    (tmp_path / "labeled_data.csv").write_text("class,tweet\n0,a\n2,c\n")
    assert profiles.settings_digest(profile, "data", variant="labelled") != before
    for old, new, message in [("toxic:", "toxics:", r"toxics is not a setting of hate:.*\(did you mean toxic\?\)"),
                              ("./labeled_data", "./none", "data.labelled.source: no such file or folder: .*/none.csv"),
                              ("davidson2017@./", "./", "give hate:NAME@PATH with one of the names davidson2017"),
                              ("rtp-lx:", "rtplx:", "unknown data source 'rtplx:")]:
        (tmp_path / "bad.yaml").write_text((tmp_path / "mine.yaml").read_text().replace(old, new))
        with pytest.raises(InputError, match=message):
            profiles.load_profile(tmp_path / "bad.yaml")
