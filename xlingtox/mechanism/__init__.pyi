# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .activations import *
from .convergence import *
from .decoding import *
from .directions import *
from .edits import *
from .intervention import *
from .neuron_sets import *
from .probe import *
from .responses import *
from .scaling import *
from .subspaces import *
from .task_vectors import *
from .treatments import *
from .value_vectors import *
