# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .answers import *
from .draw import *
from .grammar import *
from .lexicon import *
from .worlds import *
