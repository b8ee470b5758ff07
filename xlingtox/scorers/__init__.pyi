# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .archive import *
from .archived import *
from .by_name import *
from .classifier import *
from .distorted import *
from .endpoint import *
from .lexicon import *
from .ngram import *
from .perspective import *
from .scorer import *
from .service import *
from .store import *
