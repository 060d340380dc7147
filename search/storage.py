"""Where trials live: an Optuna study, on sqlite for one machine and on PostgreSQL for many.

A trial is written once, when it is finished, with all its parameters in one transaction, and as the number it was proposed
as: whoever appends says which number, and a study that holds it already refuses. So several workers, or one that does not
know whether its commit arrived, may all append, and the study holds every trial once.

A study over several NFE has two objectives, error and NFE, so that Optuna's own tools draw its front. Here alone: whoever
reads trials gets the error as their value, and the NFE as user attribute.

The pragmas are those that several workers on one machine need: write-ahead log, long waits, durable commits, and BEGIN
IMMEDIATE, so that two writers queue instead of failing. A database that goes away is waited for (`patiently`).
"""

import copy
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search.errors import CampaignError

PATIENCE = 120.0  # seconds without the database before a worker gives up
LOST = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    optuna.exceptions.StorageInternalError,
    UnboundLocalError,  # what Optuna 5.0 makes of a connection that breaks inside a query (optuna#5280)
)
SCHEMA_LOCK = 0x66657773  # the key of PostgreSQL's advisory lock while the tables are made: any number that nobody else uses
TABLES = (  # of search.board and search.answers
    "create table if not exists fewstep_workers (worker varchar(200) primary key, campaign varchar(200), seen double precision)",
    "create table if not exists fewstep_board (campaign varchar(200), stage varchar(100), number integer, worker varchar(200),"
    " found text, primary key (campaign, stage, number))",
    "create table if not exists fewstep_deaths (campaign varchar(200), stage varchar(100), number integer, count integer,"
    " primary key (campaign, stage, number))",
    "create table if not exists fewstep_answers (campaign varchar(200), number integer, answers text, primary key (campaign, number))",
)
T = TypeVar("T")
_NEXT: ContextVar[int | None] = ContextVar("the number that the next trial must get", default=None)


class _Taken(Exception):
    """The study holds that number already."""


def patiently(action: Callable[[], T]) -> T:
    """The action's result, tried again while the database is away. Raises CampaignError after PATIENCE seconds."""
    wait, deadline = 0.05, time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except LOST as error:
            if time.monotonic() > deadline:
                raise CampaignError(f"The storage has been away for {PATIENCE:.0f} seconds: {_line(error)}") from None
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


@contextmanager
def opened(url: str) -> Iterator[optuna.storages.RDBStorage]:
    """The storage with its tables, which one worker makes while others wait; in the end nothing is left that would write to it.

    Raises CampaignError if it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url.startswith(("sqlite:///", "postgresql")):
        raise CampaignError(f"The storage {url} is neither sqlite:///FILE nor postgresql+psycopg://....")
    if url in ("sqlite:///", "sqlite:///:memory:"):
        raise CampaignError(f"The storage {url} ends with its process; give a file, sqlite:///FILE.")
    connection = {} if url.startswith("sqlite") else {"connect_timeout": 5}
    options = {"pool_pre_ping": True, "connect_args": connection}
    try:
        with _only_one(url):
            storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
            with storage.engine.begin() as base:
                for table in TABLES:
                    base.execute(sqlalchemy.text(table))
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, OSError) as error:
        raise CampaignError(f"The storage {url} cannot be opened: {_line(error)}") from None
    if url.startswith("sqlite"):
        _harden(storage.engine)
    sqlalchemy.event.listen(storage.scoped_session, "before_flush", _fence)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def open_study(storage: optuna.storages.RDBStorage, name: str, budgets: int = 1) -> optuna.Study:
    """The study of that name over so many NFE, made if it is not there."""
    directions = [StudyDirection.MINIMIZE] * min(budgets, 2)
    return patiently(lambda: optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True))


def noted(study: optuna.Study, name: str, value: Any) -> Any:
    """What the study says under that name, or `value` if it says nothing."""
    return patiently(lambda: study.user_attrs.get(name, value))


def note(study: optuna.Study, name: str, value: Any) -> Any:
    """What the study says under that name; if it says nothing yet, it says `value` from now on."""

    def once() -> Any:
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
        return study.user_attrs[name]

    return patiently(once)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """All trials of the study by number. Every trial here is finished."""
    found = patiently(lambda: sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number))
    return found if len(study.directions) == 1 else [_with_values(trial, trial.values and trial.values[:1]) for trial in found]


def append(study: optuna.Study, trials: Sequence[FrozenTrial], first: int) -> None:
    """Append finished trials as the numbers from `first` on; those that the study holds already are left as they are."""
    if len(study.directions) > 1:
        trials = [_with_values(trial, trial.values and [*trial.values, trial.user_attrs["nfe"]]) for trial in trials]
    for number, trial in enumerate(trials, first):
        expected = _NEXT.set(number)
        try:
            patiently(lambda trial=trial: study.add_trial(trial))
        except _Taken:
            continue
        finally:
            _NEXT.reset(expected)


def _with_values(trial: FrozenTrial, values: Sequence[float] | None) -> FrozenTrial:
    changed = copy.copy(trial)
    changed.values = values
    return changed


def _fence(session: Any, *_: Any) -> None:
    """In the transaction that inserts a trial, where Optuna has locked the study: is the number that it will get the expected one?"""
    for row in session.new:
        if row.__tablename__ == "trials" and _NEXT.get() is not None:
            count = sqlalchemy.text("select count(*) from trials where study_id = :study")
            if session.execute(count, {"study": row.study_id}).scalar() != _NEXT.get():
                raise _Taken


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold a lock on this machine, waiting for it; the kernel frees it when the process ends, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def held(file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock on this machine, whose file is gone in the end. Raises CampaignError, saying that, where another process holds it."""
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CampaignError(refusal) from None
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextmanager
def _only_one(url: str) -> Iterator[None]:
    if url.startswith("sqlite"):
        with alone(Path(url.removeprefix("sqlite:///") + ".lock")):
            yield
        return
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:  # which frees the lock when it closes
            connection.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": SCHEMA_LOCK})
            yield
    finally:
        engine.dispose()


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0]


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
