"""How the two scripts start: Hydra's own refusals end like all others, in one line and a status."""

import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException


def start(main: Callable[[], None]) -> None:
    """Run a function that Hydra has wrapped."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints a page of its own
    try:
        main()
    except HydraException as error:
        sys.exit("error: " + " ".join(str(error).split("Config search path")[0].split()))
