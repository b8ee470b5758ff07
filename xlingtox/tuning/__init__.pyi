# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .adapter import *
from .card import *
from .controls import *
from .guard import *
from .loss import *
from .methods import *
from .neurons import *
from .preference import *
from .rows import *
from .supervised import *
from .trainer import *
