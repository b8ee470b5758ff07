"""The miniatures that come with the package: how heavy they are, and that a training anew goes the same way."""
import pytest
import torch
from xlingtox import models
from xlingtox.core import assets
from xlingtox.models import shipped
from xlingtox.models.miniatures import RECIPES, shipped_folder


def test_weights_fit_into_a_package():
    assert sum(file.stat().st_size for file in (assets() / "miniatures").rglob("*") if file.is_file()) < 70e6


@pytest.mark.parametrize("name", sorted(folder.name for folder in (assets() / "miniatures").iterdir()))
def test_what_ships_is_of_this_world_and_loads(name):
    assert shipped_folder(name) is not None, "its recipe or the world has changed since it was trained"
    model, tokenizer = models.load(f"mini:{name}", device="cpu")
    ids = tokenizer("The teacher reads a book.", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert torch.isfinite(model(input_ids=ids, labels=ids).loss)


@pytest.mark.slow
def test_a_training_anew_goes_the_same_way():
    "On any processor and number of threads: each loss within the bound that was set before any was compared"
    assert abs(shipped.check("mgpt", steps=160, progress=False)["loss"]) < shipped.TOLERANCE


def test_another_recipe_does_not_pass_for_the_one_that_ships(monkeypatch):
    recipe = RECIPES["mgpt"]
    monkeypatch.setitem(RECIPES, "mgpt", recipe | {"training": recipe["training"] | {"seed": 5}})
    assert shipped_folder("mgpt") is None
