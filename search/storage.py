"""Where trials live: an Optuna study, sqlite by default.

A trial is written once, when it is finished, with all its parameters in one transaction: a worker that dies leaves
nothing half-written and nothing RUNNING. The pragmas are those that several workers on one machine need: write-ahead log,
long waits, durable commits, and BEGIN IMMEDIATE, so that two writers queue instead of failing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.event
import sqlalchemy.exc
from optuna.trial import FrozenTrial

from search.errors import CampaignError


def open_study(url: str, name: str) -> optuna.Study:
    """The study of that name, made if it is not there. Raises CampaignError if the storage cannot be opened."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True}, skip_compatibility_check=False)
        if url.startswith("sqlite"):
            _harden(storage.engine)
        return optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as error:
        raise CampaignError(f"The storage {url} cannot be opened: {str(error).splitlines()[0]}") from None


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """All trials of the study by number. Every trial here is finished."""
    return sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)


def record(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Append finished trials."""
    for trial in trials:
        study.add_trial(trial)


def _harden(engine: Any) -> None:
    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver must not open transactions of its own
        for pragma in ("busy_timeout=60000", "journal_mode=wal", "synchronous=full"):
            connection.execute(f"pragma {pragma}")

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections made before the hooks must not live on
