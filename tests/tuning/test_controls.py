"""A control is the same tuning with other labels, and nothing else."""
import pandas as pd
import pytest
from xlingtox import babel
from xlingtox.core import InputError
from xlingtox.tuning import preference


@pytest.mark.slow  # two tunings
def test_swapped_pairs_are_learnt_the_other_way_round(tmp_path):
    from xlingtox import models

    pairs = babel.preference(n=40)
    margins = {}
    for control in (None, "swapped"):
        model, tokenizer = models.load("mini:mgpt")
        log = preference.tune(model, tokenizer, pairs, tmp_path / str(control), max_steps=3, batch_size=4, warmup_steps=0, eval_steps=1,
                              learning_rate=1e-4, eval_share=0.1, control=control)
        margins[control] = log["eval_loss"].dropna()
        assert margins[control].iloc[-1] < margins[control].iloc[0], "each learns its own labels"
    same = pd.read_parquet(tmp_path / "None/log.parquet")
    assert not same["loss"].equals(pd.read_parquet(tmp_path / "swapped/log.parquet")["loss"])


def test_an_unknown_control_is_refused_before_anything_is_trained(tmp_path):
    from xlingtox import models

    model, tokenizer = models.load("mini:mgpt")
    with pytest.raises(InputError, match="there is no control 'reversed'"):
        preference.tune(model, tokenizer, babel.preference(n=40), tmp_path / "x", max_steps=1, control="reversed")
    assert not (tmp_path / "x").exists()
