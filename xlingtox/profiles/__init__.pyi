# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .card import *
from .costs import *
from .estimates import *
from .grid import *
from .grid_stages import *
from .method_stages import *
from .methods import *
from .neuron_stages import *
from .profile import *
from .read import *
from .sections import *
from .shadow import *
from .stages import *
from .variants import *
