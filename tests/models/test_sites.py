"""Value and key vectors on every architecture against the MLP's own output, and sites that a model does not have."""
import pandas as pd
import pytest
import torch
from xlingtox import models
from xlingtox.core import InputError
from xlingtox.models import sites
from xlingtox.models.sites import check_sites, mlp_sites, random_sites

from conftest import ARCHITECTURES


def run_once(model, ids):
    "One forward pass; an encoder-decoder model reads and writes the same ids"
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_output_is_the_sum_of_activations_times_value_vectors(architecture, layer, toy_model):
    model, seen = toy_model(architecture), {}
    site = mlp_sites(model)[layer]
    handle = site.hook_point.register_forward_hook(lambda module, inputs, output: seen.update(m=inputs[0].double(), out=output))
    key_handle = site.key_map.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], pre=output))
    run_once(model, torch.tensor([[5, 6, 7, 8, 9]]))
    handle.remove(), key_handle.remove()
    bias = getattr(site.hook_point, "bias", None)
    by_hand = torch.zeros(1, 5, 32, dtype=torch.float64) + (0 if bias is None else bias.detach())
    for neuron in range(site.n_neurons):
        by_hand += seen["m"][..., neuron, None] * site.values[neuron]
    assert seen["out"].abs().max() > 1e-3
    gain = 1 if site.gain is None else site.gain
    torch.testing.assert_close(by_hand.float(), (seen["out"] * gain).float(), rtol=1e-4, atol=1e-5)
    key_bias = getattr(site.key_map, "bias", None)
    pre = torch.stack([seen["x"] @ site.keys[neuron] for neuron in range(site.n_neurons)], -1) + (0 if key_bias is None else key_bias.detach())
    torch.testing.assert_close(pre, seen["pre"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_neuron_moves_the_output_along_its_value_vector(architecture, toy_model):
    "Where the hook point is the right one, an activation that grows by 1 adds the value vector to what leaves the MLP"
    model, out = toy_model(architecture), []
    site = mlp_sites(model)[1]

    def outputs(delta):
        add = site.hook_point.register_forward_pre_hook(lambda module, inputs: (inputs[0] + delta,))
        keep = site.hook_point.register_forward_hook(lambda module, inputs, output: out.append(output.detach()))
        run_once(model, torch.tensor([[5, 6, 7]]))
        add.remove(), keep.remove()
        return out[-1]

    one = torch.zeros(site.n_neurons)
    one[3] = 1.0
    moved = (outputs(one) - outputs(torch.zeros(site.n_neurons))) * (1 if site.gain is None else site.gain)
    torch.testing.assert_close(moved, site.values[3].expand(1, 3, 32), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text", "olmo2"])
def test_behind_a_norm_a_neuron_changes_the_stream_along_its_value_vector(architecture):
    "Silenced, it changes the residual stream in the plane of its value vector and what its layer adds; its raw column lies outside"
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes, vocab_size=50, initializer_range=0.3, pad_token_id=0)).double().eval()
    site, layer, stream = mlp_sites(model)[1], model.model.layers[1], []
    site.norm.weight.data = 0.1 + 3 * torch.rand(32, dtype=torch.double)
    site = mlp_sites(model)[1]

    def after(scale):
        "The stream behind the layer at the last token, and what the layer added, with one neuron's activation scaled"
        factor = torch.ones(site.n_neurons, dtype=torch.double).index_fill(0, torch.tensor([3]), scale)
        handles = [site.hook_point.register_forward_pre_hook(lambda module, inputs: (inputs[0] * factor,)),
                   site.norm.register_forward_hook(lambda module, inputs, output: stream.append(output[0, -1])),
                   layer.register_forward_hook(lambda module, inputs, output: stream.append((output if torch.is_tensor(output) else output[0])[0, -1]))]
        run_once(model, torch.tensor([[5, 6, 7, 8]]))
        for handle in handles:
            handle.remove()
        return stream[-1], stream[-2]

    (whole, added), (without, _) = after(1.0), after(0.0)
    change = whole - without

    def outside(direction):
        plane = torch.linalg.qr(torch.stack([direction, added], 1)).Q
        return float((change - plane @ (plane.T @ change)).norm() / change.norm())
    assert change.norm() > 1e-3
    assert outside(site.values[3]) < 1e-4 and outside(site.values[3] / site.gain) > 0.1 and outside(site.values[4]) > 0.1


@pytest.mark.parametrize("architecture", sorted({*sites.ARCHITECTURES, *models.LORA_MODULES}))
def test_every_row_of_the_tables_fits_its_class(architecture):
    "Those that are not among the toys are made without weights: the names of value vectors and of an adapter's groups are there"
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    sizes = ARCHITECTURES.get(architecture, ARCHITECTURES["llama"])
    config = AutoConfig.for_model(architecture, **({"text_config": sizes} if architecture == "gemma3" else sizes))
    with torch.device("meta"):
        model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config)
    assert len(mlp_sites(model)) == 2 and all(site.keys.shape == site.values.shape == (site.n_neurons, 32) for site in mlp_sites(model))
    groups = models.LORA_MODULES.get(architecture, {})
    assert len(models.lora_modules(model, [*groups])) == len(sum(groups.values(), []))


def test_the_decoder_of_an_encoder_decoder_is_meant(toy_model):
    model = toy_model("mt5")
    assert mlp_sites(model)[0].hook_point is model.decoder.block[0].layer[2].DenseReluDense.wo


def test_an_adapter_hides_the_vectors_but_not_the_hook_point(toy_model):
    from peft import LoraConfig, get_peft_model

    plain = toy_model("llama")
    tuned = get_peft_model(toy_model("llama"), LoraConfig(r=2, target_modules=["down_proj"]))
    site = mlp_sites(tuned)[0]
    assert site.n_neurons == 64 and site.hook_point is tuned.base_model.model.model.layers[0].mlp.down_proj
    with pytest.raises(InputError, match="merge_and_unload"):
        site.values  # noqa: B018
    merged = mlp_sites(tuned.merge_and_unload())[0]
    torch.testing.assert_close(merged.values, mlp_sites(plain)[0].values)


def test_four_bit_weights_are_unpacked(toy_model):
    bnb = pytest.importorskip("bitsandbytes")
    model = toy_model("llama")
    expected, layer = mlp_sites(model)[0].values.clone(), model.model.layers[0].mlp
    packed = bnb.nn.Linear4bit(64, 32, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    packed.load_state_dict({"weight": layer.down_proj.weight.data})
    layer.down_proj = models.keep_layout(packed.to("cpu"))
    layer.down_proj(torch.zeros(1, 64))  # packs
    if not hasattr(layer.down_proj.weight, "quant_state") or layer.down_proj.weight.quant_state is None:
        pytest.skip("no four-bit weights on this machine")
    site = mlp_sites(model)[0]
    assert site.n_neurons == 64 and site.values.shape == (64, 32)
    assert (site.values - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_an_unknown_architecture_says_what_to_add(toy_model, monkeypatch):
    model = toy_model("llama")
    monkeypatch.setattr(model.config, "model_type", "llama9")
    with pytest.raises(InputError, match=r"add sites.ARCHITECTURES\['llama9'\] = \(path of the list of layers.*key vectors.*value vectors"):
        mlp_sites(model)
    monkeypatch.setitem(sites.ARCHITECTURES, "llama9", sites.ARCHITECTURES["llama"])
    assert len(mlp_sites(model)) == 2
    monkeypatch.setitem(sites.ARCHITECTURES, "llama9", ("model.layers", "mlp.gate", "mlp.down_proj"))
    with pytest.raises(InputError, match=r"ARCHITECTURES\['llama9'\].*does not fit LlamaForCausalLM"):
        mlp_sites(model)


@pytest.mark.parametrize("layer, neuron, message", [
    (2, 0, "row 2: layer 2 is not in the model, which has layers 0 to 1"), (-1, 0, "layer -1 is not in the model"),
    (1, 64, "row 2: neuron 64 is not in layer 1, which has neurons 0 to 63"), (0, -1, "neuron -1 is not in layer 0"),
    (0, 3, "row 2: layer 0, neuron 3 occurs more than once")])
def test_sites_outside_the_model(layer, neuron, message, toy_model):
    with pytest.raises(InputError, match=message):
        check_sites(toy_model("llama"), pd.DataFrame({"layer": [0, layer], "neuron": [3, neuron]}))


@pytest.mark.parametrize("same", [False, True])
def test_random_sites(same, toy_model):
    model = toy_model("gpt2")
    chosen = pd.DataFrame({"layer": [0] * 5 + [1] * 40, "neuron": [*range(5), *range(40)]})
    drawn = [random_sites(model, chosen, same, seed) for seed in range(20)]
    for table in drawn:
        assert len(table) == 45 and not table.duplicated().any() and table.merge(chosen).empty
        check_sites(model, table)
        if same:
            assert (table["layer"] == 0).sum() == 5
    assert not drawn[0].equals(drawn[1]) and drawn[3].equals(random_sites(model, chosen, same, 3))
    if not same:
        assert 15 < pd.concat(drawn)["layer"].eq(0).sum() / 20 < 30  # 123 of 211 free neurons are in layer 0: 26 expected
    with pytest.raises(InputError, match="cannot draw 70 other neurons in layer 0: it has 58"):
        random_sites(model, pd.DataFrame({"layer": 0, "neuron": range(70)}), True)
