"Classifiers as scorers, on tiny models of XLM-R's architecture with random weights."
import json
import sys

import numpy as np
import pytest
from xlingtox.core import InputError
from xlingtox.scorers.by_name import check_spec, load_scorer
from xlingtox.scorers.classifier import KNOWN, ClassifierScorer
from xlingtox.scorers.store import ScoreStore

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"the liar friend sings to a house and we see it".split()]
TEXTS = ["the liar sings", "a friend", "the house and the friend and the liar see it", "we", "to a house", "nonsense words"]


def save_tokenizer(folder, length=32):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
                            model_max_length=length).save_pretrained(folder)


def make(folder, labels=("neutral", "toxic"), pickle=False, length=32, **config):
    "A random XLM-R-class classifier, sharp enough that its scores differ"
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    save_tokenizer(folder, length)
    torch.manual_seed(0)
    model = XLMRobertaForSequenceClassification(XLMRobertaConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=34,
        pad_token_id=1, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}, initializer_range=1.0, **config)).eval()
    model.save_pretrained(folder)
    if pickle:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return model


def logits(model, text):
    "One text at a time, without padding"
    import torch

    ids = [0, *(WORDS.index(w) if w in WORDS else 3 for w in text.split()), 2]
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def test_softmax_over_exclusive_labels(tmp_path):
    model = make(tmp_path / "m", ("hate", "neither", "offensive"))
    for i, label in enumerate(["hate", "neither", "offensive"]):
        expected = [np.exp(z[i]) / np.exp(z).sum() for z in (logits(model, t) for t in TEXTS)]
        found = ClassifierScorer(str(tmp_path / "m"), label, batch_size=2).score(TEXTS, "en")
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 0.05


@pytest.mark.parametrize("labels, config", [(("toxicity", "insult"), {"problem_type": "multi_label_classification"}), (("toxicity",), {})])
def test_sigmoid_where_each_label_is_a_question_of_its_own(tmp_path, labels, config):
    model = make(tmp_path / "m", labels, **config)
    expected = [1 / (1 + np.exp(-logits(model, t)[0])) for t in TEXTS]
    np.testing.assert_allclose(load_scorer(f"classifier:{tmp_path}/m#toxicity").score(TEXTS, "en"), expected, atol=1e-5)


@pytest.mark.parametrize("hub, labels, config, toxic", [
    ("textdetox/xlmr-large-toxicity-classifier", ("LABEL_0", "LABEL_1"), {}, 1),
    ("textdetox/xlmr-large-toxicity-classifier", ("toxic", "neutral"), {}, 0),
    ("unitary/multilingual-toxic-xlm-roberta", ("toxic",), {}, None),
    ("unitary/multilingual-toxic-xlm-roberta", ("severe_toxicity", "toxicity"), {}, None),
])
def test_known_models(tmp_path, monkeypatch, hub, labels, config, toxic):
    monkeypatch.chdir(tmp_path)
    model = make(tmp_path / hub, labels, **config)
    scorer = ClassifierScorer(hub)
    z = np.array([logits(model, t) for t in TEXTS])
    place = labels.index("toxicity") if "toxicity" in labels else 0
    expected = (np.exp(z) / np.exp(z).sum(1, keepdims=True))[:, toxic] if toxic is not None else 1 / (1 + np.exp(-z[:, place]))
    np.testing.assert_allclose(scorer.score(TEXTS, "en"), expected, atol=1e-5)
    assert scorer.languages == KNOWN[hub].languages
    with pytest.raises(InputError, match="does not support ja"):
        scorer.score(["x"], "ja")


def test_labels_are_never_guessed(tmp_path):
    make(tmp_path / "m", ("neutral", "toxic"))
    with pytest.raises(InputError, match="does not declare which label means toxic; its labels are neutral, toxic: name the toxic one, classifier:.*#LABEL"):
        ClassifierScorer(str(tmp_path / "m"))
    with pytest.raises(InputError, match="has no label LABEL_1; its labels are neutral, toxic"):
        ClassifierScorer(str(tmp_path / "m"), "LABEL_1")
    with pytest.raises(InputError, match="does not declare which label means toxic"):
        check_spec(f"classifier:{tmp_path}/m", ["en"])
    check_spec(f"classifier:{tmp_path}/m#toxic", ["en"])


def test_long_and_empty_texts(tmp_path):
    make(tmp_path / "m")
    scorer = ClassifierScorer(str(tmp_path / "m"), "toxic")
    long = "the liar sings " * 20
    scores, reasons = scorer.assess(["", long, " \n", "we", long[:40]], "en")
    assert reasons == ["empty text", None, "empty text", None, None] and np.isnan(scores).tolist() == [True, False, True, False, False]
    assert scorer.truncated == 1 and scores[1] == pytest.approx(scorer.score([" ".join(long.split()[:30])], "en")[0], abs=1e-6)
    assert scorer.score([], "en").shape == (0,) and scorer.assess([""], "en")[1] == ["empty text"]


def test_a_tokenizer_without_a_limit_is_cut_at_the_models(tmp_path):
    make(tmp_path / "m", length=10**9)
    scorer = ClassifierScorer(str(tmp_path / "m"), "toxic")
    assert np.isfinite(scorer.score(["the liar sings " * 40], "en")).all() and scorer.truncated == 1


def test_what_tells_versions_apart(tmp_path):
    make(tmp_path / "m")
    toxic, neutral = (ClassifierScorer(str(tmp_path / "m"), label) for label in ("toxic", "neutral"))
    assert toxic.version == ClassifierScorer(str(tmp_path / "m"), "toxic").version != neutral.version
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2}))
    assert ClassifierScorer(str(tmp_path / "m"), "toxic").version != toxic.version


def test_stored_scores_need_no_weights(tmp_path):
    make(tmp_path / "m")
    store = ScoreStore(tmp_path / "s.sqlite")
    scores = store.score(ClassifierScorer(str(tmp_path / "m"), "toxic"), TEXTS, "en")
    again = ClassifierScorer(str(tmp_path / "m"), "toxic")
    again._load = None
    np.testing.assert_array_equal(store.score(again, TEXTS, "en"), scores)


def test_what_is_refused(tmp_path):
    make(tmp_path / "pickle", pickle=True)
    with pytest.raises(InputError, match="has no safetensors weights; a pickle checkpoint is only read with allow_pickle=True"):
        ClassifierScorer(str(tmp_path / "pickle"), "toxic").score(["we"], "en")
    assert np.isfinite(ClassifierScorer(str(tmp_path / "pickle"), "toxic", allow_pickle=True).score(["we"], "en")).all()
    with pytest.raises(InputError, match="cannot load 'nobody/nothing'"):
        ClassifierScorer("nobody/nothing", "toxic")
    from transformers import XLMRobertaConfig, XLMRobertaModel

    XLMRobertaModel(XLMRobertaConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                     max_position_embeddings=34)).save_pretrained(tmp_path / "bare")
    save_tokenizer(tmp_path / "bare")
    with pytest.raises(InputError, match="not a sequence classifier: it has no weights for classifier"):
        ClassifierScorer(str(tmp_path / "bare"), "LABEL_1").score(["we"], "en")


def test_code_of_a_repository_is_not_run(tmp_path):
    make(tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    (tmp_path / "m/mine.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(InputError, match="cannot load"):
        ClassifierScorer(str(tmp_path / "m"), "toxic")
    assert not (tmp_path / "ran").exists() and "mine" not in sys.modules
