"""A worker slow enough to be killed in the middle, whose warnings are errors: its settings as JSON, and the name of its machine."""

import json
import sys
import time
import warnings

from rich.progress import Progress

from search import board
from search.race import Race
from search.run import run
from search.settings import settings

fast = Race.run


def slow(self, tableaus, reference, keep=None):
    time.sleep(0.15 * len(tableaus))
    return fast(self, tableaus, reference, keep)


if __name__ == "__main__":
    warnings.simplefilter("error")
    Race.run = slow
    words, machine = sys.argv[1:]
    board.machine = lambda: machine
    run(settings(json.loads(words)), Progress(disable=True))
