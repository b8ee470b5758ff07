# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .beams import *
from .cache import *
from .completions import *
from .engine import *
from .responses import *
from .sampling import *
from .tokens import *
from .vllm import *
