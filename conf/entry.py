"""How the two scripts start: Hydra's own refusals end like all others, in one line and a status."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from hydra.errors import HydraException


def start(main: Callable[[], None], lists: Sequence[str] = ()) -> None:
    """Run a function that Hydra has wrapped. `lists`: the settings that may be given as NAME=A,B, which to Hydra means two runs."""
    sys.argv[1:] = [_listed(word) if word.partition("=")[0] in lists else word for word in sys.argv[1:]]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever is asked to end, as by Slurm or Kubernetes, ends as by Ctrl-C
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints a page of its own
    try:
        main()
    except HydraException as error:
        sys.exit("error: " + " ".join(str(error).split("Config search path")[0].split()))


def _listed(word: str) -> str:
    name, _, value = word.partition("=")
    return f"{name}=[{value}]" if "," in value and not value.startswith("[") else word
