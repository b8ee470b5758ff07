"""What value vectors promote: cosines and projections against plain loops, tokens whose language and toxicity are known, and the counts."""
import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox.core import InputError
from xlingtox.mechanism.probe import Probe
from xlingtox.mechanism.value_vectors import (
    describe_tokens,
    multilinguality,
    precision_recall,
    probe_cosines,
    token_languages,
    token_script,
    token_toxicity,
    top_tokens,
    truly_toxic,
)
from xlingtox.models.sites import mlp_sites

from conftest import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cosines_and_top_tokens(architecture, toy_model, toy_tokenizer):
    model, weight = toy_model(architecture), np.random.default_rng(0).normal(size=32).astype(np.float32)
    table = probe_cosines(model, Probe(weight))
    mlps, unembedding = mlp_sites(model), model.get_output_embeddings().weight.detach()
    assert len(table) == sum(m.n_neurons for m in mlps) and table["cosine"].is_monotonic_decreasing
    for row in table.iloc[[0, 17, -1]].itertuples():
        v = mlps[row.layer].values[row.neuron].numpy()
        assert row.cosine == pytest.approx(v @ weight / np.linalg.norm(v) / np.linalg.norm(weight), abs=1e-5)
    chosen = table.iloc[[40, 3, 3 + 20]]
    tokens = top_tokens(model, toy_tokenizer, chosen, n=6)
    assert list(tokens.groupby(["layer", "neuron"], sort=False).groups) == list(chosen[["layer", "neuron"]].itertuples(index=False, name=None))
    for (layer, neuron), group in tokens.groupby(["layer", "neuron"]):
        scores = unembedding @ mlps[layer].values[neuron]
        assert group["token_id"].tolist() == torch.argsort(scores, descending=True)[:6].tolist() and group["place"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_probe_of_another_model(toy_model):
    with pytest.raises(InputError, match="the probe is 33 wide and the value vectors of the model 32"):
        probe_cosines(toy_model("gpt2"), Probe(np.ones(33, dtype=np.float32)))


class Words:
    "A tokenizer of whole words"

    def __init__(self, words):
        self.words = words

    def __len__(self):
        return len(self.words)

    def __call__(self, texts, add_special_tokens=True):
        return {"input_ids": [[self.words.index(w) for w in t.split()] for t in texts]}


def test_the_language_of_a_token():
    tokenizer = Words(["cat", "katze", "hotel", "rare", "the"])
    texts = pd.DataFrame({"lang": ["en"] * 4 + ["de"], "text": ["cat hotel the"] * 3 + ["the the the rare", "katze hotel katze"]})
    table = token_languages(tokenizer, texts, min_count=2)
    assert table["lang"].to_dict() == {0: "en", 1: "de", 2: "de", 4: "en"}
    assert table.loc[2, "share"] == pytest.approx((1 / 3) / (1 / 3 + 3 / 13)) and table.loc[2, "count"] == 4
    strict = token_languages(tokenizer, texts, min_count=2, min_share=0.7)
    assert strict.loc[2, "lang"] == "shared" and strict.loc[0, "lang"] == "en"


def test_the_script_of_a_token():
    assert [token_script(t) for t in ("учи", "hotel", "ある", "한국", "12", "<0xE3>")] == ["Cyrillic", "Latin", "Hiragana", "Hangul", "", "Latin"]


def test_a_token_is_toxic_when_all_its_words_are():
    tokenizer = Words(["liar", "teacher", "big", "thief"])
    lexicon = pd.DataFrame({"concept": ["l", "t", "b", "s"], "theme": ["insult", "", "threat", "corruption"], "severity": [0.6, 0.0, 0.4, 0.8],
                            "en": ["liar", "teacher", "big teacher", "big thief"], "de": ["liar", "teacher", "liar", "thief"]})
    table = token_toxicity(tokenizer, lexicon)
    assert table.loc[1, "severity"] == 0 and table.loc[1, "theme"] == ""
    assert table.loc[0, "severity"] == pytest.approx((0.6 * 2 + 0.4) / 3) and table.loc[0, "theme"] == "insult"
    assert table.loc[3, "theme"] == "corruption" and table.loc[2, "severity"] == pytest.approx(0.6)


def test_counting_languages():
    tokens = pd.DataFrame({"layer": 0, "neuron": [1] * 5 + [2] * 2, "token_id": [0, 1, 2, 3, 4, 0, 5], "token": list("abcdeaf")})
    homes = pd.DataFrame({"lang": ["en", "en", "de", "shared"]}, index=[0, 1, 2, 3])
    toxicity = pd.DataFrame({"severity": [0.5, 0.0, 0.7, 0.9], "theme": ["insult", "", "threat", "threat"]}, index=[0, 1, 2, 3])
    table = multilinguality(describe_tokens(tokens, homes, toxicity)).set_index("neuron")
    assert table.loc[1].drop("layer").to_dict() == {"n_known": 3, "n_languages": 2, "n_toxic": 3, "n_toxic_languages": 2, "theme": "threat"}
    assert table.loc[2].drop("layer").to_dict() == {"n_known": 1, "n_languages": 1, "n_toxic": 1, "n_toxic_languages": 1, "theme": "insult"}
    unknown = multilinguality(describe_tokens(tokens, homes))
    assert unknown["n_toxic"].tolist() == [0, 0] and unknown["theme"].tolist() == ["", ""] and unknown["n_languages"].tolist() == [2, 1]


def test_a_vector_made_toxic_is_found(toy_model, toy_tokenizer):
    "A value vector that is the sum of toxic tokens' unembeddings, among random ones"
    model, toxic = toy_model("gpt2"), range(100, 109)
    toxicity = pd.DataFrame({"severity": 0.0, "theme": ""}, index=pd.RangeIndex(len(toy_tokenizer), name="token_id"))
    toxicity.loc[toxic, "severity"] = 0.7
    mlp = mlp_sites(model)[1]
    mlp.hook_point.weight.data[7] = model.get_output_embeddings().weight.data[list(toxic)].mean(0) * 20
    truth = truly_toxic(model, toy_tokenizer, toxicity, n=10).set_index(["layer", "neuron"])
    assert truth.loc[(1, 7), "toxic"] and truth["toxic"].mean() < 0.05
    chosen = pd.DataFrame({"layer": [1, 0], "neuron": [7, 3]})
    found = precision_recall(chosen, truth.reset_index())
    hits = 1 + int(truth.loc[(0, 3), "toxic"])
    assert found["n_toxic"] == hits and found["precision"] == hits / 2 and found["recall"] == hits / truth["toxic"].sum()
    assert np.isnan(precision_recall(chosen.head(0), truth.reset_index())["precision"])
