# What type checkers see of the wing: all that its rooms define. A test compares it with the rooms.
from .agreement import *
from .bootstrap import *
from .bridged import *
from .capability import *
from .diversity import *
from .evaluations import *
from .fluency import *
from .fluency_intervals import *
from .harness_task import *
from .response_language import *
from .toxicity import *
