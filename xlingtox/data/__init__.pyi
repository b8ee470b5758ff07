# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .catalogue import *
from .context import *
from .files import *
from .hate import *
from .instructions import *
from .loaders import *
from .loading import *
from .pairs import *
from .schemas import *
from .sources import *
from .splits import *
