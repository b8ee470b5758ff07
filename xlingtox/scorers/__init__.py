"""Toxicity scores, and a store that never asks twice."""
import ast
import re
from pathlib import Path

import lazy_loader


def _public(room: Path) -> list[str]:
    "What a room's `__all__` names, without importing it: so a new scorer is shown here by being exported"
    return ast.literal_eval(re.search(r"^__all__ = (\[.*?\])", room.read_text(encoding="utf-8"), re.M | re.S)[1])


_rooms = sorted(Path(__file__).parent.glob("[a-z]*.py"), reverse=True)  # of two with one name the first has it
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={room.stem: _public(room) for room in _rooms})
