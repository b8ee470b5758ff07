"The table of scorers: that it is whole, that the scorers follow it, and what the command prints of it."
import json
import subprocess
import sys

import pytest
from xlingtox.core import InputError
from xlingtox.languages import LANGUAGES
from xlingtox.scorers.by_name import SCORERS, billions_of, check_spec
from xlingtox.scorers.catalogue import check_learnt, covering, known_scorers, pinned
from xlingtox.scorers.classifier import KNOWN
from xlingtox.scorers.perspective import PerspectiveScorer

TABLE = known_scorers()


def test_every_row_is_whole():
    assert TABLE.index.is_unique and set(TABLE["kind"]) <= {scorer.kind for scorer in SCORERS}
    assert TABLE["kind"].tolist() == [spec.split(":")[0] for spec in TABLE.index]
    for spec, row in TABLE.iterrows():
        assert row["licence"] and row["pitfalls"] and set(row["languages"].split()) <= set(LANGUAGES.index), spec
        assert not row["revision"] or len(row["revision"]) == 40, spec
        if row["kind"] in ("classifier", "guard"):
            assert row["languages"] and row["toxic"] and row["billions"] > 0, spec
            assert row["revision"] or "commit" in row["unchecked"], f"{spec}: that its commit is not known is said"


def test_the_scorers_follow_it():
    assert {f"classifier:{model}" for model in KNOWN} == set(TABLE.index[TABLE["kind"] == "classifier"])
    for model, labels in KNOWN.items():
        assert labels.languages == set(TABLE.loc[f"classifier:{model}", "languages"].split())
    assert len(KNOWN["textdetox/xlmr-large-toxicity-classifier"].languages) == 9 and len(KNOWN["textdetox/xlmr-large-toxicity-classifier-v2"].languages) == 12
    assert set(TABLE.loc["perspective:default", "languages"].split()) == PerspectiveScorer.languages
    assert billions_of("guard:Qwen/Qwen3Guard-Gen-4B@" + "0" * 40) == 4.0 and billions_of("classifier:me/mine@x#toxic") == 0.56


@pytest.mark.parametrize("lang", LANGUAGES.index)
def test_who_has_learnt_a_language(lang):
    assert covering(lang), "someone has"
    for spec in TABLE.index[TABLE["kind"].isin(["classifier", "guard"])]:
        pin = f"{spec}@{'0' * 40}"
        if spec in covering(lang):
            check_spec(pin, [lang])
        else:
            with pytest.raises(InputError, match=f"does not support {lang}; it supports .*Who has learnt it: {lang}: ") as e:
                check_spec(pin, [lang])
            assert spec not in str(e.value).split(f"learnt it: {lang}: ")[1].split(", ") and "\n" not in str(e.value)


def test_nobody_has_learnt_what_we_do_not_know():
    with pytest.raises(InputError) as e:
        check_learnt(["xx"], ["en"], "scorer mine")
    assert str(e.value) == "scorer mine does not support xx; it supports en"


def test_a_commit_is_pinned():
    known = TABLE.loc["classifier:unitary/multilingual-toxic-xlm-roberta", "revision"]
    assert pinned("classifier", "unitary/multilingual-toxic-xlm-roberta", None) == known
    assert pinned("classifier", "unitary/multilingual-toxic-xlm-roberta", "1" * 40) == "1" * 40, "what is named goes first"
    for revision in ("main", "refs/pr/1", "a3d4e66", "A" * 40):
        with pytest.raises(InputError, match="give a commit, 40 hexadecimal digits"):
            pinned("classifier", "me/mine", revision)


def test_the_command():
    def run(*arguments):
        return subprocess.run([sys.executable, "-c", "from xlingtox.cli import main; main()", "scorers", "list", *arguments], capture_output=True, text=True)

    found = json.loads(run("--lang", "ko", "--lang", "sv", "--json").stdout)
    assert {row["spec"] for row in found} == set(covering("ko")) & set(covering("sv")) and found[0]["billions"] == 0.49
    shown = run().stdout
    assert all(f"{spec}\n" in shown for spec in TABLE.index) and "commit: to be named, guard:Qwen/Qwen3Guard-Gen-8B@COMMIT" in shown
    bad = run("--lang", "klingon")
    assert bad.returncode == 2 and "does not support klingon" in bad.stderr and bad.stderr.count("\n") == 1
    nobody = run("--lang", "am", "--lang", "ko")
    assert (nobody.returncode, nobody.stdout) == (0, "") and nobody.stderr == "no scorer here has learnt all of am ko; ask one by one\n"
