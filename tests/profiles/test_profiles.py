"""Profiles: what is read, what is refused and in which words."""
import re

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from xlingtox import profiles
from xlingtox.core import InputError
from xlingtox.models import registry
from xlingtox.papers import exhibits
from xlingtox.profiles import estimates
from xlingtox.runs import select
from xlingtox.tuning import preference


def write(folder, file, **content):
    (folder / file).write_text(yaml.safe_dump(content))
    return folder / file


@pytest.fixture
def mine(tmp_path):
    "Write a profile that extends mini, and load it"
    def load(**content):
        return profiles.load_profile(write(tmp_path, "mine.yaml", extends="mini", **content))
    return load


def test_the_default_profile_loads():
    profile = profiles.load_profile("mini")
    assert profile.name == "mini" and len(profile.languages) == 17
    assert profiles.Profile(**profile.model_dump(mode="json")) == profile, "what a run folder keeps is the same profile"


def test_a_miniature_for_each_model_and_more_bases_of_one():
    "What the paper tunes with QLoRA is tuned so, and the profile's own rate is not trained twice"
    profile = profiles.load_profile("mini")
    published = {role: model["li2024"] for role, model in registry.ROLES.items() if model["li2024"]}
    assert published.keys() <= profile.models.keys()
    for role in [role for role in profile.models if registry.published_role(role) in published]:
        assert {s["tuning"] for s in profiles.tuned(profile, role).values()} == {published[registry.published_role(role)]}
    assert list(profiles.tuned(profile, "mgpt", "lr")) == [f"lr-{rate}-0" for rate in ("2e-06", "5e-06", "1e-05", "5e-05")]
    full, qlora = profiles.tuned(profile, "bloom-1b7")["dpo-0"], profiles.tuned(profile, "bloom-1b7", "qlora")["qlora-0"]
    assert {k for k in full if full[k] != qlora[k]} == {"tuning"}
    assert {select.lacks(profile, e) for e in li2024_exhibits()} <= {"", "there is no notebook for it yet"}


def li2024_exhibits():
    return [e for e in exhibits.EXHIBITS.values() if e.paper == "li2024" and e.notebook]


def test_a_stage_sees_only_its_variant(mine):
    def digests(**settings):
        variants = {"swapped": None, "shuffled": None, "lr": {"dpo": {"learning_rate": [1e-6, 5e-6]}}, "qlora": {"dpo": settings}}
        profile = mine(models={"mgpt": {"seeds": [0], "variants": variants}})
        variants = [v for g in profiles.groups(profile.models["mgpt"]) for v in profiles.tuned(profile, "mgpt", g)]
        return {v: profiles.settings_digest(profile, "tune", "mgpt", v) for v in variants}
    one, other = digests(tuning="qlora"), digests(tuning="qlora", lora={"r": 8})
    assert list(one) == ["dpo-0", "lr-1e-06-0", "lr-5e-06-0", "qlora-0"] and len(set(one.values())) == 4
    assert [v for v in one if one[v] != other[v]] == ["qlora-0"]


def test_a_variant_of_another_method(mine):
    profile = mine(kto=mine().dpo.model_dump(exclude={"loss_type"}),
                   models={"mgpt": {"seeds": [0], "variants": {"kto": {"kto": {"learning_rate": 1e-6}}, "same": {"kto": {}}}}})
    dpo = {key: value for key, value in profiles.tuned(profile, "mgpt")["dpo-0"].items() if key != "loss_type"}  # KTO has none
    assert profiles.tuned(profile, "mgpt", "kto") == {"kto-0": dpo | {"learning_rate": 1e-6}}
    assert profiles.tuned(profile, "mgpt", "same") == {"same-0": dpo}, "equal settings of another method make another model"
    digests = {profiles.settings_digest(profile, "tune", "mgpt", v) for v in ("dpo-0", "kto-0", "same-0")}
    assert len(digests) == 3


def test_realtext_needs_its_folder(tmp_path):
    with pytest.raises(InputError, match=r"realtext.yaml: .*--data FOLDER"):
        profiles.load_profile("realtext")
    with pytest.raises(InputError, match=r"realtext.yaml: data.prompts.source: no such file or folder: .*parallel-prompts"):
        profiles.load_profile("realtext", tmp_path)
    for name in ("parallel-prompts", "paradetox-splits"):
        (tmp_path / name).mkdir()
    profile = profiles.load_profile("realtext", tmp_path)
    assert profile.scorer == "ngram:train" and profile.data["preference"].languages == ["en"]
    assert str(tmp_path) in profile.data["prompts"].source[0]


def test_extends_merges_section_by_section(mine):
    mini, profile = profiles.load_profile("mini"), mine(generation={"k": 3}, data={"prompts": {"n": 7}})
    assert profile.generation.k == 3 and profile.generation.temperature == mini.generation.temperature
    assert profile.data["prompts"].model_extra["n"] == 7 and profile.data["multiway"] == mini.data["multiway"]
    assert mine(dpo=None).dpo == preference.Dpo(), "null takes a section away"


def test_paths_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/p.csv").write_text("id,lang,text\na,en,hello\n")
    write(tmp_path / "deep", "base.yaml", extends="mini", data={"prompts": {"source": "file:./p.csv", "n": None}})
    path = write(tmp_path, "mine.yaml", extends="deep/base.yaml", title="mine")
    monkeypatch.chdir("/")
    profile = profiles.load_profile(path)
    assert profile.data["prompts"].source == [f"file:{tmp_path}/deep/p.csv"] and profile.title == "mine"


def test_a_changed_data_file_is_noticed(tmp_path, mine):
    file = tmp_path / "p.csv"
    file.write_text("id,lang,text\na,en,hello\n")
    profile = mine(data={"prompts": {"source": f"file:{file}", "n": None}})
    before = profiles.settings_digest(profile, "data", variant="prompts")
    file.touch()
    assert profiles.settings_digest(profile, "data", variant="prompts") == before
    file.write_text("id,lang,text\na,en,good day\n")
    assert profiles.settings_digest(profile, "data", variant="prompts") != before


FAMILY = {"task": "neutral", "targets": ["attention"], "epochs": 1, "max_new_tokens": 5}


def beniwal(**changes):
    "A section of the second paper that fits, but for the changes"
    return {"beniwal2025": {"languages": ["de", "en"], "models": {"mgpt": FAMILY}} | changes}


def neurons(**changes):
    "A section of the third paper that fits, but for the changes"
    fits = {"languages": ["de", "en"], "out_of_scope": ["fr"], "models": ["mgpt"], "responder": "babel",
            "strategies": ["full", "per-language", "multilingual"], "tuning": {"epochs": 1}, "decoding": {"max_new_tokens": 5}, "tasks": ["facts"]}
    return {"neuronft2025": {k: v for k, v in (fits | changes).items() if v is not None}}


def test_the_other_two_papers(mine):
    profile = mine(models={"mgpt": {}}, languages=["de", "en", "fr"], **beniwal(), **neurons())
    assert profile.beniwal2025.lora.r == 16 and profile.beniwal2025.shares[-1] == 1 and profile.neuronft2025.auroc == 0.5
    trainings = {paper: (p.trainings, p.evaluations) for paper, p in estimates.planned(profile).items()}
    # one language, two languages and shares of all, judged in two languages; in full, two languages in a row, and their union, judged in three
    assert trainings == {"beniwal2025": (2 + 4, 2 * (1 + 2 + 4)), "neuronft2025": (1 + 2 + 1, 3 * (1 + 3))}
    assert profiles.settings_digest(profile, "tune", "mgpt", "dpo-0") == profiles.settings_digest(mine(), "tune", "mgpt", "dpo-0")


@pytest.mark.parametrize("content, message", [
    ({"generation": {"temprature": 1}}, r"mine.yaml: generation.temprature: is not a setting \(did you mean temperature\?\)"),
    ({"generatoin": {}}, r"mine.yaml: generatoin: is not a setting \(did you mean generation\?\)"),
    ({"generation": {"k": "many"}}, r"mine.yaml: generation.k: input should be a valid integer.*'many'"),
    ({"generation": {"top_p": 2}}, "mine.yaml: generation.top_p: input should be less than or equal to 1, not 2"),
    ({"models": {"gpt-2": {"model": "x"}}}, "mine.yaml: models: gpt-2 is not known.*; there are mgpt, bloom-1b7"),
    ({"models": {"mgpt": {"sedes": [1]}}}, r"mine.yaml: models.mgpt.sedes: is not a setting \(did you mean seeds\?\)"),
    ({"models": {"mgpt": {"dpo": {"bta": 1}}}}, r"mine.yaml: models.mgpt.dpo.bta is not a setting \(did you mean beta\?\)"),
    ({"models": {"mgpt": {"dpo": {"lora": {"alpa": 1}}}}}, r"mine.yaml: models.mgpt.dpo.lora.alpa is not a setting \(did you mean alpha\?\)"),
    ({"models": {"mgpt": {"dpo": {"lora": {"r": 0}}}}}, "mine.yaml: models.mgpt.dpo.lora.r: input should be greater than or equal to 1, not 0"),
    ({"models": {"mgpt": {"dpo": {"lora": 8}}}}, "mine.yaml: models.mgpt.dpo.lora: input should be a valid dictionary"),
    ({"models": {"mgpt": {"tuning": "lora"}}}, "mine.yaml: models.mgpt.tuning: is not a setting"),
    ({"models": {"mgpt": {"dpo": {"beta": -1}}}}, "mine.yaml: models.mgpt.dpo.beta: input should be greater than 0, not -1"),
    ({"models": {"mgpt": {"model": "mini:gmpt"}}}, r"models.mgpt.model: there is no miniature 'gmpt' \(did you mean mgpt\?\)"),
    ({"models": {"mgpt": {"model": "/no/such/folder"}}}, "models.mgpt.model: no such folder: /no/such/folder"),
    ({"models": {"mgpt": {"variants": {"rate": {"dpo": {"learning_rat": [1]}}}}}},
     r"models.mgpt.variants.rate.dpo.learning_rat is not a setting \(did you mean learning_rate\?\)"),
    ({"models": {"mgpt": {"variants": {"rate": {"dpo": {"learning_rate": [1e-6, -1]}}}}}}, "variants.rate.dpo.learning_rate: input should be greater than 0"),
    ({"models": {"mgpt": {"variants": {"rate": {"dpo": {"learning_rate": [1e-6, 1e-6]}}}}}}, "variants.rate.dpo.learning_rate: give different plain values"),
    ({"models": {"mgpt": {"variants": {"rate": {"dpo": {"learning_rate": []}}}}}}, "variants.rate.dpo.learning_rate: give different plain values"),
    ({"models": {"mgpt": {"variants": {"rate": {"dpo": {"learning_rate": [1, 2], "beta": [1, 2]}}}}}}, "variants.rate.dpo: beta and learning_rate have lists"),
    ({"models": {"mgpt": {"variants": {"dpo": {"dpo": {"beta": 1}}}}}}, "models.mgpt.variants.dpo: dpo is the name of the main model"),
    ({"models": {"mgpt": {"variants": {"q-lora": {"dpo": {"beta": 1}}}}}}, "models.mgpt.variants.q-lora"),
    ({"models": {"mgpt": {"variants": {"q": {"dpo": {"tuning": "prefix"}}}}}}, "variants.q.dpo.tuning: input should be 'full', 'lora' or 'qlora'"),
    ({"models": {"mgpt": {"variants": {"q": {"dpo": {"beta": 1}, "sedes": [1]}}}}}, "variants.q.sedes: is not a setting"),
    ({"data": {"choice": None}}, "mine.yaml: data: choice is missing"),
    ({"capability": {"tasks": []}}, "capability.tasks: list should have at least 1 item"),
    ({"judge": None}, "mine.yaml: judge: is missing"),
    ({"languages": ["en", "fi"]}, "mine.yaml: languages: xlingtox does not support fi; it supports am ar"),
    ({"languages": "li2025"}, "mine.yaml: languages: no set of languages named 'li2025'"),
    ({"languages": []}, "mine.yaml: languages: value should have at least 1 item"),
    ({"retrieval": {"source": "uk"}}, "retrieval.source: the set of languages does not support uk"),
    ({"data": {"prompst": {"source": "babel:prompts"}}}, r"mine.yaml: data: prompst is not known \(did you mean prompts\?\)"),
    ({"data": {"prompts": {"m": 3}}}, "mine.yaml: data.prompts: m is not a setting of babel:prompts.*; it takes n, seed, toxic_share"),
    ({"data": {"prompts": {"source": "babel:jokes"}}}, "data.prompts: babel has no data kind 'jokes'"),
    ({"data": {"prompts": {"source": "ftp:x"}}}, "data.prompts: unknown data source 'ftp:x'"),
    ({"data": {"prompts": {"source": "file:/no/p.csv", "n": None}}}, "mine.yaml: data.prompts.source: no such file or folder: /no/p.csv"),
    ({"data": {"multiway": None}}, "mine.yaml: data: multiway is missing"),
    ({"scorer": "ngram:train", "data": {"labelled": None}}, "mine.yaml: data: labelled is missing"),
    ({"scorer": "oracle"}, "mine.yaml: scorer: unknown scorer 'oracle'; give KIND:WHERE with one of the kinds lexicon, ngram"),
    ({"scorer": "lexicon:/no/words.csv"}, "scorer: no such file or folder: /no/words.csv"),
    ({"threads": {"bse": 1}}, r"threads: bse is not known \(did you mean base\?\)"),
    ({"name": "../mini"}, "mine.yaml: name: string should match pattern"),
    (beniwal(models={"mgpt": FAMILY | {"epoks": 3}}), r"beniwal2025.models.mgpt.epoks: is not a setting \(did you mean epochs\?\).*takes task, targets"),
    (beniwal(models={"mgtp": FAMILY}), r"beniwal2025.models: mgtp is not among the profile's models \(did you mean mgpt\?\); it has mgpt"),
    (beniwal(models={"mgpt": FAMILY | {"task": "poem"}}), "beniwal2025.models.mgpt.task: input should be 'neutral', 'completion' or 'rewrite'"),
    (beniwal(shares=[0.5, 1.5]), "beniwal2025.shares.1: input should be less than or equal to 1"),
    (beniwal(prompt="Go on:"), "beniwal2025.prompt: 'Go on:': must have {text} once"),
    (beniwal() | {"data": {"cross": {"source": "babel:jokes"}}}, "data.cross: babel has no data kind 'jokes'"),
    (beniwal() | {"data": {"shared": None}}, "mine.yaml: data: shared is missing"),
    (neurons(models=["mgtp"]), r"neuronft2025.models: mgtp is not among the profile's models \(did you mean mgpt\?\)"),
    (neurons(out_of_scope=["en", "fr"]), "neuronft2025: out_of_scope: en: tuned on as well"),
    (neurons(strategies=["half"]), "neuronft2025.strategies.0: input should be 'full', 'per-language', 'multilingual'"),
    (neurons(strategies=["full", "full"]), "neuronft2025: strategies: full full: name each of them once"),
    (neurons(tuning={"learning_rat": 1}), r"neuronft2025.tuning.learning_rat: is not a setting \(did you mean learning_rate\?\)"),
    (neurons(out_of_scope=["am"]), "neuronft2025.out_of_scope: the profile does not support am"),
    (neurons() | {"data": {"detection": None}}, "mine.yaml: data: detection is missing"),
    ({"data": {"prompts": {"n": -1}}}, "mine.yaml: data.prompts: n: input should be greater than or equal to 1, not -1"),
    ({"data": {"prompts": {"n": True}}}, "mine.yaml: data.prompts: n: .*should be a number, not True"),
    ({"data": {"prompts": {"n": 1.5}}}, "mine.yaml: data.prompts: n: input should be a valid integer"),
    ({"data": {"prompts": {"seed": -1}}}, "data.prompts: seed: input should be greater than or equal to 0"),
    ({"data": {"prompts": {"toxic_share": 7}}}, "data.prompts: toxic_share: input should be less than or equal to 1"),
    ({"data": {"prompts": {"sample": True}}}, "data.prompts.sample: .*should be a number, not True"),
    ({"data": {"prompts": {"source": ["babel:prompts", "babel:prompts"]}}}, "data.prompts.source: .*'babel:prompts' stands there twice"),
    ({"data": {"multiway": {"languages": ["de"]}}}, "retrieval.source: data.multiway does not support en"),
    ({"data": {"prompts": {"source": "hf:two words", "n": None}}}, "data.prompts: 'hf:two words' names no data set of the hub"),
    ({"languages": ["en", "de", "en"]}, "mine.yaml: languages: .*'en' stands there twice"),
    ({"models": {"mgpt": {"seeds": [0, 0]}}}, "models.mgpt.seeds: .*0 stands there twice"),
    ({"agreement": ["ngram:train", "ngram:train"]}, "agreement: .*'ngram:train' stands there twice"),
    ({"models": {"mgpt": {"model": ""}}}, "models.mgpt.model: '' names no model"),
    ({"models": {"mgpt": {"model": "lexicon:w.csv"}}}, "models.mgpt.model: 'lexicon:w.csv' names no model"),
    ({"features": {"model": "mini:nothing"}}, "features.model: there is no miniature 'nothing'"),
    ({"generation": {"k": 10**30}}, "generation.k: input should be less than or equal to 2147483647"),
    *[({section: {"seed": -1}}, f"mine.yaml: {section}.seed: input should be greater than or equal to 0, not -1")
      for section in ("generation", "metrics", "probe", "sites", "methods")],
    ({"probe": {"lang": "fi"}}, "probe.lang: data.prompts does not support fi"),
    ({"leave_out": ["li2024/fig99"]}, r"leave_out: there is no exhibit li2024/fig99 \(did you mean"),
    ({"title": "a\nb"}, "mine.yaml: title: string should match pattern"),
    ({"intervention": {"offsets": []}}, "intervention.offsets: list should have at least 1 item"),
    (beniwal(sources=["fr"]), "beniwal2025.sources: the section does not support fr"),
    (beniwal(models={"mgpt": FAMILY | {"min_new_tokens": 6}}), "beniwal2025.models.mgpt: min_new_tokens: 6 is more than max_new_tokens, 5"),
    (neurons(decoding={"max_new_tokens": 5, "min_new_tokens": 6}), "neuronft2025.decoding: min_new_tokens: 6 is more than max_new_tokens"),
    (neurons(modules=[]), "neuronft2025.modules"),
    (neurons(tuning={"optimizer_args": "momentum"}), "neuronft2025.tuning.optimizer_args: string should match pattern"),
    (neurons(models=["mgpt", "mgpt"]), "neuronft2025.models: .*'mgpt' stands there twice"),
])
def test_what_is_refused(mine, content, message):
    with pytest.raises(InputError, match=message) as e:
        mine(**content)
    assert "\n" not in str(e.value)


WORDS = "concept,category,theme,severity,en\nliar,insult_noun,insult,0.4,liar\n"
PLACED = {"scorer": "lexicon:w.csv", "agreement": ["noisy:lexicon:w.csv"], "cards": ["lexicon:w.csv"], "sites": {"lexicon": "w.csv"},
          "data": {"prompts": {"source": "file:p.csv", "n": None}}, "judge": {"model": "model"}, "accelerate": "a.yaml", "features": {"model": "model"}}
ALONE = {"languages": ["en"], "beniwal2025": None, "neuronft2025": None}


@pytest.mark.parametrize("key", PLACED)
def test_a_path_that_belongs_to_no_folder(tmp_path, monkeypatch, key):
    "It would be found from here and not in the run folder, hours later"
    monkeypatch.chdir(tmp_path)
    for name, text in {"w.csv": WORDS, "p.csv": "id,lang,text\na,en,hello\n", "a.yaml": "num_processes: 2\n"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "model").mkdir()
    value = PLACED[key]
    with pytest.raises(InputError, match="to whose folder does .* belong. give .*[./]") as e:
        profiles.load_profile(write(tmp_path, "mine.yaml", extends="mini", **ALONE, **{key: value}))
    dotted = yaml.safe_load(yaml.safe_dump(value).replace("w.csv", "./w.csv").replace("p.csv", "./p.csv").replace("a.yaml", "./a.yaml"))
    if key in ("scorer", "agreement", "cards", "data"):
        assert str(e.value).count("./") == 1
        monkeypatch.chdir("/")
        assert profiles.load_profile(write(tmp_path, "mine.yaml", extends="mini", **ALONE, **{key: dotted})).title


def test_folders_that_happen_to_be_called_like_a_name(tmp_path, monkeypatch):
    "Names are no places: a folder of prompts where the command is called takes nothing from babel:prompts"
    for name in ("prompts", "preference", "multiway", "train", "babel", "default", "mgpt", "mt5-large", "ddp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    mine = {"extends": "mini", "accelerate": "ddp", "agreement": ["perspective:default", "noisy:lexicon:babel", "ngram:train", "features:train"]}
    assert profiles.load_profile("mini").name == "mini" and profiles.load_profile(write(tmp_path, "mine.yaml", **mine)).accelerate == "ddp"


def test_a_chain_of_files_with_anything_in_the_middle(tmp_path):
    "The file below is refused for what the file above it makes of it, and in one line"
    odd = [None, 7, "x", [], ["x"], {}, {"x": 1}, {"models": 7}, {"models": None}, {"languages": 7, "out_of_scope": 7}, {"mgpt": 7}]
    tops = [{"models": {"mgpt": {"model": "mini:mgpt"}}}, {"languages": ["en"]}, {"models": {"mgpt": None}}]
    for key in ("models", "beniwal2025", "neuronft2025", "methods", "languages"):
        for value in odd:
            write(tmp_path, "base.yaml", extends="mini", **{key: value})
            for top in tops:
                try:
                    profiles.load_profile(write(tmp_path, "mine.yaml", extends="base.yaml", **top))
                except InputError as e:
                    assert "\n" not in str(e)


@pytest.mark.parametrize("text", ["x", "- 1", "num_processes: 0", "num_processes: many", "num_processes: true", "[", "a: \x00"])
def test_a_configuration_of_accelerate_is_read(tmp_path, mine, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"accelerate: .*a.yaml: n"):
        mine(accelerate=str(tmp_path / "a.yaml"))


def test_a_tracker_and_vllm_must_be_there(mine, monkeypatch, without):
    without("vllm")
    without("lm_eval")
    with pytest.raises(InputError, match="generation.backend: vllm is not installed"):
        mine(generation={"backend": "vllm"})
    with pytest.raises(InputError, match="neuronft2025.tasks: m_mmlu takes the lm-eval harness"):
        mine(neuronft2025={"tasks": ["m_mmlu"]})
    monkeypatch.setattr("transformers.integrations.integration_utils.get_available_reporting_integrations", list)
    with pytest.raises(InputError, match="report_to: the tracker wandb is not installed"):
        mine(report_to="wandb")


def test_a_saved_scorer_is_read_before_it_is_needed(tmp_path, mine):
    "An empty folder, and a lexicon without a word in a language, which would find every text harmless"
    (tmp_path / "empty").mkdir()
    for kind in ("ngram", "features"):
        with pytest.raises(InputError, match=r"scorer.json: no such file|no scorer was saved there"):
            mine(scorer=f"{kind}:{tmp_path}/empty")
    for words, said in ((WORDS.replace(",en", ",en,de").replace(",liar\n", ",liar,\n"), "does not support de"), ("\x00\x01", "lacks the columns|no table"),
                        (WORDS.replace("0.4", "much"), "severity of liar"), (WORDS.splitlines()[0] + "\n", "does not support"), ("", "no table")):
        (tmp_path / "w.csv").write_text(words)
        with pytest.raises(InputError, match=said):
            mine(scorer=f"lexicon:{tmp_path}/w.csv", **ALONE | {"languages": ["en", "de"]})
    (tmp_path / "w.csv").write_bytes(WORDS.replace("liar", "caf\xe9").encode("latin-1"))
    with pytest.raises(InputError, match="w.csv: no table in UTF-8"):
        mine(sites={"lexicon": f"{tmp_path}/w.csv"})


def test_the_file_that_holds_the_mistake_is_named(tmp_path):
    write(tmp_path, "base.yaml", extends="mini", generation={"kk": 1})
    with pytest.raises(InputError, match="base.yaml: generation.kk"):
        profiles.load_profile(write(tmp_path, "mine.yaml", extends="base.yaml"))


def test_a_scorer_must_know_the_languages(tmp_path, mine):
    (tmp_path / "words.csv").write_text("concept,category,theme,severity,en\nliar,insult_noun,insult,0.4,liar\n")
    with pytest.raises(InputError, match="languages: scorer lexicon:.*words.csv does not support de"):
        mine(scorer=f"lexicon:{tmp_path}/words.csv", languages=["en", "de"])
    with pytest.raises(InputError, match="beniwal2025.languages: scorer lexicon:.*words.csv does not support am.*`beniwal2025: null`"):
        mine(scorer=f"lexicon:{tmp_path}/words.csv", languages=["en"])
    assert mine(scorer=f"lexicon:{tmp_path}/words.csv", languages=["en"], beniwal2025=None).languages == ["en"]


@pytest.mark.parametrize("text, message", [
    ("a: [1,", "mine.yaml, line 1, column 7: not YAML"),
    ("- 1\n- 2\n", "mine.yaml: expected keys and values such as `extends: mini`, found list"),
    ("", "mine.yaml: expected keys and values such as `extends: mini`, found NoneType"),
    ("extends: mine.yaml", "mine.yaml: extends itself"),
    ("extends: nobody", "no profile named nobody; there are .*mini, paper, .*realtext, small"),
])
def test_files_that_are_no_profiles(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        profiles.load_profile(tmp_path / "mine.yaml")


def test_not_utf8(tmp_path):
    (tmp_path / "mine.yaml").write_bytes("title: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match="mine.yaml: not YAML in UTF-8"):
        profiles.load_profile(tmp_path / "mine.yaml")


def test_data_that_are_not_there_are_said_with_the_way_to_get_them(tmp_path):
    (tmp_path / "paradetox-splits").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path}/parallel-prompts; fetch it: xlingtox data get parallel-prompts --to {tmp_path}$"):
        profiles.load_profile("laptop", tmp_path)
    (tmp_path / "parallel-prompts").mkdir()
    with pytest.raises(InputError, match=f"fetch it: xlingtox data get ibrohim2019 --to {tmp_path}/hate-corpora$"):
        profiles.load_profile("laptop", tmp_path)


def test_a_profile_that_leaves_its_model_open(tmp_path):
    for name in ("parallel-prompts", "paradetox-splits", "hate-corpora"):
        (tmp_path / name).mkdir()
    assert {m.model for m in profiles.load_profile("laptop", tmp_path).models.values()} == {"google/gemma-3-270m"}
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="laptop.yaml: .*model: has no safetensors weights"):
        profiles.load_profile("laptop", tmp_path, model=str(tmp_path / "model"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    assert profiles.load_profile("laptop", tmp_path, model=str(tmp_path / "adapter")), "its base may be anywhere"
    (tmp_path / "model/m.gguf").touch()
    with pytest.raises(InputError, match="holds a model in one file: give its name, .*m.gguf"):
        profiles.load_profile("laptop", tmp_path, model=str(tmp_path / "model"))
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model/model.safetensors")
    profile = profiles.load_profile("laptop", tmp_path, model=str(tmp_path / "model"))
    assert profile.models["mgpt"].model == profile.judge.model == profile.neuronft2025.responder == str(tmp_path / "model")
    assert set(profiles.tuned(profile, "mgpt", "swapped")) == {"swapped-0"}
    assert profiles.tuned(profile, "mgpt", "swapped")["swapped-0"] == profiles.tuned(profile, "mgpt")["dpo-0"] | {"control": "swapped"}
    with pytest.raises(InputError, match="--model: the profile names its models itself"):
        profiles.load_profile("mini", model="mini:mgpt")
    with pytest.raises(InputError, match="there is no miniature 'mgtp' .did you mean mgpt"):
        profiles.load_profile("laptop", tmp_path, model="mini:mgtp")


@pytest.mark.parametrize("names", [("parallel-prompts", "paradetox-splits", "hate-corpora"), ("parallel_prompts", "paradetox_splits", "hate_corpora")])
def test_every_profile_on_real_text_can_be_read(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    for name in ("realtext", "realpairs", "laptop"):
        profile = profiles.load_profile(name, tmp_path)
        assert profile.name == name and f"{tmp_path}/{names[0]}" in profile.data["prompts"].source[0]


def test_profiles_spell_the_folders_of_data_as_they_are_fetched():
    from xlingtox.data.catalogue import data_sets

    texts = [path.read_text(encoding="utf-8") for path in profiles.profile_path("mini").parent.glob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"\{data\}/([^/\"]+)", text)}
    assert named <= set(data_sets().index) | {"hate-corpora"} and not any("_" in name for name in named), named


def test_the_spelling_that_is_there_is_taken(tmp_path):
    for name in ("parallel-prompts", "parallel_prompts", "paradetox_splits"):
        (tmp_path / name).mkdir()
    data = profiles.load_profile("realtext", tmp_path).data
    assert data["prompts"].source == [f"parallel-prompts:{tmp_path}/parallel-prompts"]
    assert data["preference"].source == [f"paradetox:{tmp_path}/paradetox_splits"]


def test_scorers_of_a_run_need_labelled_text(mine, tmp_path):
    (tmp_path / "en.txt").write_text("thief")
    for spec in ("features:train", "ngram:train", f"words:{tmp_path}"):
        with pytest.raises(InputError, match="data: labelled is missing"):
            mine(scorer=spec, languages=["en"], data={"labelled": None}, beniwal2025=None, neuronft2025=None)
    profile = mine(scorer="features:train", agreement=["ngram:train"])
    digests = {profiles.settings_digest(p, "scorer") for p in (profile, mine(scorer="features:train"),
                                                                 mine(scorer="features:train", features={"layer": 2}))}
    assert len(digests) == 3
    with pytest.raises(InputError, match="languages: scorer words:.* has no list for de: a list is named de.txt, and the folder holds en.txt, mine.yaml"):
        mine(scorer=f"words:{tmp_path}", languages=["en", "de"], beniwal2025=None, neuronft2025=None)


def test_a_model_is_as_large_as_its_headers_say(tmp_path):
    "The same weights take half the bytes in 16 bits; an adapter is as large as its base"
    from xlingtox.profiles.costs import billions

    for name, dtype in {"wide": np.float32, "narrow": np.float16}.items():
        (tmp_path / name).mkdir()
        save_file({"w": np.zeros((300, 500), dtype)}, tmp_path / name / "model.safetensors")
    (tmp_path / "adapter").mkdir()
    save_file({"a": np.zeros((2, 500), np.float32)}, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tmp_path}/narrow"}}')
    assert {billions(str(tmp_path / name)) for name in ("wide", "narrow", "adapter")} == {150_000 / 1e9}
    (tmp_path / "wide" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="wide/model.safetensors: no safetensors file"):
        billions(str(tmp_path / "wide"))


def test_two_scorers_of_one_name_are_refused_before_anything_runs(mine, tmp_path):
    "The tables would have had one of them"
    for place in ("mild", "strong", "other/mild"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "en.txt").write_text("thief")
    few = dict(languages=["en"], beniwal2025=None, neuronft2025=None)
    mild, strong, other = (f"words:{tmp_path}/{place}" for place in ("mild", "strong", "other/mild"))
    assert mine(scorer=mild, agreement=[strong], **few).agreement == [strong]
    for keys in (dict(scorer=mild, agreement=[other]), dict(agreement=[mild, other]), dict(scorer=mild, cards=[other])):
        with pytest.raises(InputError, match=f"{mild} and {other} are both called 'words mild' in tables; rename a list or its folder"):
            mine(**keys, **few)
