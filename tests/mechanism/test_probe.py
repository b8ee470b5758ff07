"""The probe: a mean over each text alone on every architecture, a direction that is known, and artifacts that come back."""
import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel
from xlingtox.core import InputError, read_json
from xlingtox.mechanism.probe import Probe, fit_probe, load_probe, mean_last_states, save_probe, train_probe

from conftest import ARCHITECTURES

TEXTS = ["The old teacher reads a book.", "sings", "Der alte Lehrer liest.", "猫在家里唱歌。", "The child in the house sings and the cat sings."]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_are_those_of_each_text_alone(architecture, toy_model, toy_tokenizer):
    model = toy_model(architecture)
    got = mean_last_states(model, toy_tokenizer, TEXTS, batch_size=3)
    assert got.shape == (5, 32)
    for row, text in zip(got, TEXTS, strict=True):
        ids = toy_tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                states = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True).decoder_hidden_states[-1]
            else:
                states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(row, states[0].mean(0).numpy(), rtol=3e-4, atol=3e-4)


def test_long_texts_are_cut(toy_model, toy_tokenizer):
    model, long = toy_model("gpt2"), "The old teacher reads a book. " * 60
    ids = toy_tokenizer(long)["input_ids"]
    assert len(ids) > 128
    with torch.no_grad():
        wanted = model(torch.tensor([ids[:128]]), output_hidden_states=True).hidden_states[-1][0].mean(0)
    np.testing.assert_allclose(mean_last_states(model, toy_tokenizer, [long])[0], wanted, rtol=1e-4, atol=1e-4)


def states_and_labels(n=600, d=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    direction = rng.normal(size=d)
    return x, x @ direction > 0, direction


def test_a_known_direction_is_found():
    x, y, direction = states_and_labels()
    weight = train_probe(x, y, learning_rate=1e-2).weight
    assert weight @ direction / np.linalg.norm(weight) / np.linalg.norm(direction) > 0.98


def test_the_loop_is_that_of_a_torch_linear():
    "Against the library's own layer, loss and optimiser on the same batches"
    x, y, _ = states_and_labels(90)
    got = train_probe(x, y, learning_rate=1e-3, batch_size=7, epochs=3, bias=True, seed=5)
    generator = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(12, 1)
    layer.weight.data = ((torch.rand(12, generator=generator) * 2 - 1) / 12**0.5)[None]
    layer.bias.data.zero_()
    optimizer, loss = torch.optim.Adam(layer.parameters(), lr=1e-3), torch.nn.BCELoss()
    for _ in range(3):
        for batch in torch.randperm(90, generator=generator).split(7):
            optimizer.zero_grad()
            loss(torch.sigmoid(layer(torch.tensor(x)[batch]))[:, 0], torch.tensor(y.astype(np.float32))[batch]).backward()
            optimizer.step()
    np.testing.assert_allclose(got.weight, layer.weight.detach().numpy()[0], atol=2e-6)
    assert got.bias == pytest.approx(layer.bias.item(), abs=2e-6) and got.bias != 0


def test_without_bias_and_with_the_published_settings():
    x, y, _ = states_and_labels(60)
    probe = train_probe(x, y)
    assert probe.bias == 0 and probe.about["settings"] == {"learning_rate": 1e-6, "batch_size": 10, "epochs": 20, "bias": False, "seed": 99}
    assert (train_probe(x, y).weight == probe.weight).all() and (train_probe(x, y, seed=1).weight != probe.weight).any()


def test_only_the_probes_language_trains(toy_model, toy_tokenizer):
    "Texts of other languages, whatever their labels, leave the probe as it is; the held-out texts too"
    model, labelled = toy_model("gpt2"), babel.labelled(["en", "de", "zh"], n=60)
    probe, table = fit_probe(model, toy_tokenizer, labelled, held_out=0.2, zero_shot=20, learning_rate=1e-2)
    flipped = labelled.assign(toxic=labelled["toxic"].where(labelled["lang"] == "en", ~labelled["toxic"].astype(bool)))
    again, other = fit_probe(model, toy_tokenizer, flipped, held_out=0.2, zero_shot=20, learning_rate=1e-2)
    assert (probe.weight == again.weight).all()
    found, reverse = table.set_index("lang"), other.set_index("lang")
    assert found.loc["de", "auc"] == pytest.approx(1 - reverse.loc["de", "auc"], abs=0.35)  # the first ten of each class are others after the flip
    assert found["n"].to_dict() == {"de": 20, "en": 12, "zh": 20} and found.loc["en", "split"] == "held out"
    assert probe.about["n_train"] == 48 and found["n_toxic"].loc["de"] == 10
    texts = labelled[labelled["lang"] == "zh"].groupby("toxic", group_keys=False).head(10)
    scores = probe.score(mean_last_states(model, toy_tokenizer, texts["text"].tolist()))
    assert found.loc["zh", "accuracy"] == pytest.approx(((scores >= 0.5) == texts["toxic"].astype(bool)).mean())


def test_settings_reach_the_training_and_reading_in_batches_changes_nothing(toy_model, toy_tokenizer):
    model, labelled = toy_model("gpt2"), babel.labelled(["en"], n=60)
    settings = {"learning_rate": 1e-2, "batch_size": 7, "epochs": 3, "bias": True, "seed": 5}
    probe, _ = fit_probe(model, toy_tokenizer, labelled, read_batch_size=5, **settings)
    assert probe.about["settings"] == settings
    np.testing.assert_allclose(fit_probe(model, toy_tokenizer, labelled, **settings)[0].weight, probe.weight, atol=1e-4)


def test_an_artifact_comes_back(tmp_path, toy_model, toy_tokenizer):
    probe = Probe(np.arange(32, dtype=np.float32), 0.5, {"settings": {"seed": 1}})
    save_probe(probe, tmp_path / "probe/mgpt")
    again = load_probe(tmp_path / "probe/mgpt")
    assert (again.weight == probe.weight).all() and again.bias == 0.5 and again.about == probe.about
    assert read_json(tmp_path / "probe/mgpt.json") == {"settings": {"seed": 1}}
    (tmp_path / "probe/mgpt.safetensors").unlink()
    with pytest.raises(InputError, match="not a saved probe"):
        load_probe(tmp_path / "probe/mgpt")
    with pytest.raises(InputError, match="no such file"):
        load_probe(tmp_path / "probe/bloom")


@pytest.mark.parametrize("change, message", [
    (lambda d: d[d["toxic"].astype(bool)], "needs texts of both classes, and none of 36 is neutral"),
    (lambda d: d[~d["toxic"].astype(bool)], "none of 36 is toxic"), (lambda d: d[d["lang"] == "de"], "no texts in en to train on; there are de"),
    (lambda d: d.drop(columns="toxic"), "labelled: lacks the columns toxic")])
def test_bad_data(change, message, toy_model, toy_tokenizer):
    with pytest.raises(InputError, match=message):
        fit_probe(toy_model("gpt2"), toy_tokenizer, change(babel.labelled(["en", "de"], n=80)), learning_rate=1e-2)


def test_a_probe_of_another_width_and_one_that_diverges():
    x, y, _ = states_and_labels(60)
    with pytest.raises(InputError, match="the probe is 12 wide and the states 8"):
        train_probe(x, y).score(x[:, :8])
    with pytest.raises(InputError, match="diverged at learning rate 0.01"):
        train_probe(np.where(x > 2, np.nan, x), y, learning_rate=1e-2)


def test_one_class_zero_shot_has_no_auc(toy_model, toy_tokenizer):
    labelled = babel.labelled(["en", "de"], n=60)
    labelled = labelled[(labelled["lang"] == "en") | labelled["toxic"].astype(bool)]
    _, table = fit_probe(toy_model("gpt2"), toy_tokenizer, labelled, learning_rate=1e-2)
    assert pd.isna(table.set_index("lang").loc["de", ["auc", "p"]]).all()


def test_texts_whose_probability_is_one_are_still_ordered():
    "States of a real model are large: 40 and 47 are the same probability and not the same order"
    from xlingtox.mechanism.probe import _measures

    probe = Probe(np.full(4, 10, np.float32))
    states = np.array([[1, 1, 1, 1], [1, 1, 1, 1.1], [1, 1, 1.3, 1.4], [1, 1, 1, 2]])
    assert (probe.score(states) == 1).all()
    row = _measures(pd.DataFrame({"lang": "hi", "toxic": [0, 0, 1, 1]}), probe.logits(states)).loc[0]
    assert row["auc"] == 1 and row["p"] < 0.2 and row["brier"] == 0.5 and row["accuracy"] == 0.5
    assert np.isfinite(probe.score(-1000 * states)).all(), "nor does a probability of 0 overflow"
