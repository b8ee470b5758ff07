"""The exhibits are kept with their outputs; what needs no tuning is made again here and compared."""
import pytest
from xlingtox.runs import stored

from desk import Desk

pytestmark = pytest.mark.slow
MADE = ("li2024/table4", "li2024/table8")


def test_a_run_here_has_the_outputs_that_are_stored(tmp_path):
    "Numbers may differ as another processor rounds (`stored.NEAR`, `stored.SHARE`); words may not"
    desk = Desk(tmp_path)
    code, out, err = desk.call("reproduce", *(x for name in MADE for x in ("--only", name)))
    assert code == 0, out + err
    n, differences = stored.compare(desk.run, MADE)
    assert n >= 6 and differences == []
