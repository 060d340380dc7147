"""A mirror of the campaign in Weights & Biases. The study is the source of truth; nothing that fails here stops anything.

One run per worker, grouped by campaign, offline unless told otherwise. Metrics are plotted against the trial's number.
"""

import logging
import os
from pathlib import Path
from typing import Any, Protocol

from search.settings import Tracker
from solvers import load
from solvers.sidecar import Operators

log = logging.getLogger(__name__)


class Mirror(Protocol):
    """What a campaign tells."""

    def trial(self, number: int, nfe: int, value: float | None, best: float) -> None:
        """One finished trial, and the best value at its NFE so far."""

    def schedule(self, path: Path, facts: dict[str, Any]) -> None:
        """The exported schedule."""

    def close(self, summary: dict[str, float]) -> None:
        """The end."""


class Silent:
    """Tells nobody."""

    def trial(self, number: int, nfe: int, value: float | None, best: float) -> None:
        """Nothing."""

    def schedule(self, path: Path, facts: dict[str, Any]) -> None:
        """Nothing."""

    def close(self, summary: dict[str, float]) -> None:
        """Nothing."""


class WandB:
    """Tells W&B; after the first failure it says so once and falls silent."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def _try(self, what: Any, *arguments: Any, **options: Any) -> None:
        if self._run is None:
            return
        try:
            what(*arguments, **options)
        except Exception as error:  # a mirror must never stop what it mirrors, whatever it raises
            log.warning("W&B stopped mirroring: %s", error)
            self._run = None

    def trial(self, number: int, nfe: int, value: float | None, best: float) -> None:
        """Log one finished trial against its number."""
        if self._run is not None:
            self._try(self._run.log, {"trial": number, "search/nfe": nfe, "search/value": value, "search/best": best})

    def schedule(self, path: Path, facts: dict[str, Any]) -> None:
        """Log the file as an artifact of type "schedule"."""
        if self._run is None:
            return
        import wandb

        run = self._run

        def send() -> None:
            artifact = wandb.Artifact(path.name.split(".")[0], type="schedule", metadata=facts)
            artifact.add_file(str(path))
            if isinstance(said := load(path).executable.coefficients, Operators):
                artifact.add_file(str(path.parent / said.name))
            run.log_artifact(artifact, aliases=["best", f"nfe-{facts['nfe']}"])

        self._try(send)

    def close(self, summary: dict[str, float]) -> None:
        """Write the summary and finish the run."""
        if self._run is not None:
            self._try(self._run.summary.update, summary)
        if self._run is not None:
            self._try(self._run.finish)


def start(settings: Tracker, campaign: str, directory: Path, config: dict[str, Any]) -> Mirror:
    """Begin mirroring, or a Silent mirror where W&B is disabled or cannot start."""
    if settings.mode == "disabled":
        return Silent()
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb

        run = wandb.init(
            project=settings.project,
            group=campaign,
            job_type="search",
            dir=str(directory),
            config=config,
            mode=settings.mode,  # pyright: ignore[reportArgumentType]
            settings=wandb.Settings(init_timeout=20, console="off"),
        )
        run.define_metric("trial")
        run.define_metric("search/*", step_metric="trial")
    except Exception as error:  # a mirror must never stop what it mirrors, whatever it raises
        log.warning("W&B could not start (%s); going on without it.", error)
        return Silent()
    return WandB(run)
