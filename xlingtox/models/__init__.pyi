# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .adapters import *
from .gguf import *
from .hub import *
from .loading import *
from .miniatures import *
from .pretrain import *
from .registry import *
from .shipped import *
from .sites import *
from .spans import *
from .weights import *
