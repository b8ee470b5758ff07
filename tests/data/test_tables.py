"""Files of one's own: the same table from each kind of file, ids as they were written, rows that count from 1, lines that pair."""
import json

import pandas as pd
import pytest
from xlingtox.core import InputError
from xlingtox.data import read_file
from xlingtox.data.pairs import paradetox, parallel_prompts
from xlingtox.metrics import toxicity_summary
from xlingtox.runs.tables import write_out

IDS = ["001", "1", "1.0", "1e5", "100000", "True", "0x10", "9007199254740993", "NA", "null", "nan", " a", "é", "a,b", 'a"b', "a\nb", "a\rb"]


def scores():
    rows = [("m", "en", i, s, "s", None if (n + s) % 5 == 0 else (n + s) / 19) for n, i in enumerate(IDS) for s in (0, 1)]
    return pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "scorer", "toxicity"])


def test_each_kind_of_file_gives_the_same_table_and_metrics(tmp_path):
    tables = []
    for suffix in ("csv", "jsonl", "parquet"):
        write_out(scores(), tmp_path / f"s.{suffix}")
        tables.append(read_file(tmp_path / f"s.{suffix}", "scores"))
        assert tables[-1]["prompt_id"].tolist() == scores()["prompt_id"].tolist() and tables[-1]["sample"].tolist() == scores()["sample"].tolist()
    for other in tables[1:]:
        assert [v for v in other["toxicity"] if v == v] == [v for v in tables[0]["toxicity"] if v == v], "to the last digit"
        pd.testing.assert_frame_equal(*(toxicity_summary(t) for t in (tables[0], other)))
    prompts = pd.DataFrame({"id": IDS, "lang": "en", "text": [f"text {i}" for i in range(len(IDS))]})
    assert toxicity_summary(tables[0], prompts=prompts)["n_prompts"].tolist() == [len(IDS)]


@pytest.mark.parametrize("text, said", [
    ("id,lang,text\na,en,one,x\nb,en,two,y\n", "line 2: has 4 cells, and the header has 3"),
    ("id,lang,text\na,en,one\nb,en\n", "line 3: has 2 cells"),
    ('id,lang,text\na,en,"one\nb,en,two\n', "not CSV"), ("id;lang;text\na;en;one\n", "lacks the columns id"),
    ("id, lang, text\na, en, one\n", "lacks the columns"),
    ("id,lang,text,text\na,en,one,two\n", "more than once"), ("id,lang,text\na,fr,caf\udce9\n", "line 2: not UTF-8"), ("id,lang,text\n", "has no rows"),
    ("id,lang,text\na,English,one\n", "unknown language English (did you mean en?)"),
    ("id,lang,text\na,en,one\na,en,two\n", "row 2: en a occurs more than once")])
def test_csv_that_is_not_guessed_at(tmp_path, text, said):
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_file(tmp_path / "t.csv", "prompts")
    assert said in str(caught.value) and "t.csv" in str(caught.value)


@pytest.mark.parametrize("text, texts", [
    ('id,lang,text\na,en,"he said ""no""\nand, left"\nb,en,plain\n', ['he said "no"\nand, left', "plain"]),
    ("id,lang,text\na,en,one\n\nb,en,two\n", ["one", "two"]),
    ("\ufeffid,lang,text\na,en,one\n", ["one"]), ("id,lang,text\ra,en,one\rb,en,two\r", ["one", "two"]), ("id,lang,text\na,en,one\x00two\n", ["one\x00two"]),
    ("id,lang,text\na,en," + "x" * 300_000 + "\n", ["x" * 300_000]), ("id,lang,text\na,en,\n", [""])])
def test_csv_as_others_write_it(tmp_path, text, texts):
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert read_file(tmp_path / "t.csv", "prompts")["text"].tolist() == texts


@pytest.mark.parametrize("value, said", [("0.5x", "toxicity is '0.5x'"), ("1.5", "toxicity is 1.5"), ("inf", "toxicity is inf"), ("True", "toxicity is 'True'"),
                                         (" 0.5", "toxicity is ' 0.5'"), ("1_0", "toxicity is '1_0'")])
def test_numbers_of_csv(tmp_path, value, said):
    (tmp_path / "s.csv").write_text(f"model,lang,prompt_id,sample,scorer,toxicity\nm,en,a,0,s,0.5\nm,en,b,0,s,{value}\n")
    with pytest.raises(InputError, match="s.csv, row 2: ") as caught:
        read_file(tmp_path / "s.csv", "scores")
    assert said in str(caught.value)


@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.parametrize("empty, said", [("", "found an empty line"), ("   ", "nothing but space")])
def test_an_empty_line_does_not_move_the_pairs_behind_it(tmp_path, where, empty, said):
    for split in ("train", "test"):
        for side in ("toxic", "neutral"):
            lines = [f"{side} {i}" for i in range(4)]
            if (split, side) == ("train", "neutral"):
                lines[where] = empty
            (tmp_path / f"en_{split}_{side}.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"en_train_neutral.csv, line {where + 1}: .*{said}"):
        paradetox(tmp_path)


def test_an_empty_line_does_not_move_the_prompts_behind_it(tmp_path):
    for lang, gap in (("en", 1), ("de", 2)):
        lines = [json.dumps({"Prompt": f"{lang} {i}"}) for i in range(4)]
        lines[gap] = ""
        (tmp_path / f"dpo_toxicity_pairwise_{lang}_200.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 3: is empty"):
        parallel_prompts(tmp_path, ["de"])
