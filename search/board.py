"""How any number of workers share one campaign: a board on which numbered pieces of work are claimed, done and told.

Every worker runs the same program: tune the known solvers, propose generation after generation, conclude. Where there is
work to share it calls `Board.together(stage, numbers, work)`: the worker claims some of the numbers, does them, tells what it
found, and goes on until every number is told, by whomever. All workers return the same list, so all go on alike, and any
number of them walks through the same campaign as one does alone.

Three tables beside Optuna's hold this. `fewstep_workers` has a row per worker with its last sign of life, in the database's
clock. `fewstep_board` has a row per claimed number: who claimed it, and what was found. `fewstep_deaths` counts, for a number that
was taken over, how many workers died on it.

- A number belongs to one worker: the primary key decides.
- A worker is dead when it has been silent for `grace` seconds, or at once when it ran on this machine and its process is gone. Its
  row is deleted by whoever comes next, and a claim of a worker without a row is free for the taking.
- A number on which `ALONE` workers died is claimed alone from then on, so that the others are spared. After `LIVES`, and where others
  could be done, it is given up. To die is to be killed or to run out of memory: whoever is stopped by hand, or can say what is wrong,
  puts down what it had claimed.
- The first to tell wins. A worker that was only slow may find its number told: what it found is dropped.
- Every statement may be repeated without harm, so a database that restarts is waited for and asked again. Clocks decide when
  work is offered anew, never what is recorded.

A worker claims its share of what is free, one part in as many as there are workers: alone, it takes everything at once.
"""

import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import torch
from sqlalchemy import Engine, text

from search.errors import CampaignError
from search.storage import LOST, patiently

NOW = {"sqlite": "(julianday('now') - 2440587.5) * 86400.0", "postgresql": "extract(epoch from clock_timestamp())"}
ALONE, LIVES = 2, 5
DEADLY = (MemoryError, torch.OutOfMemoryError)
CLAIM = text(
    "insert into fewstep_board (campaign, stage, number, worker) values (:campaign, :stage, :number, :worker)"
    " on conflict (campaign, stage, number) do update set worker = excluded.worker"
    " where fewstep_board.found is null and fewstep_board.worker not in (select worker from fewstep_workers) returning number"
)
TELL = text(
    "update fewstep_board set found = :found, worker = :worker"
    " where campaign = :campaign and stage = :stage and number = :number and found is null"
)
DIED = text(
    "insert into fewstep_deaths (campaign, stage, number, count) values (:campaign, :stage, :number, 1)"
    " on conflict (campaign, stage, number) do update set count = fewstep_deaths.count + 1"
)
ROWS = text(
    "select b.number, b.found, w.worker from fewstep_board b left join fewstep_workers w on w.worker = b.worker"
    " where b.campaign = :campaign and b.stage = :stage"
)
DEATHS = text("select number, count from fewstep_deaths where campaign = :campaign and stage = :stage")
RELEASE = text("delete from fewstep_board where worker = :worker and found is null")


def machine() -> str:
    """This machine, or this container: where a process number means something."""
    try:
        return f"{platform.node()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


class Board:
    """A worker's view of the board of one campaign. grace: seconds after which a silent worker is taken for dead."""

    def __init__(self, engine: Engine, campaign: str, grace: float) -> None:
        self.engine, self._campaign, self._grace = engine, campaign, grace
        self._machine = machine()
        self.worker = f"{self._machine} {os.getpid()} {secrets.token_hex(4)}"
        self._now = NOW[engine.dialect.name]
        self._stop = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator["Board"]:
        """Be seen to live, until the block ends: then everything this worker has not told is free at once."""
        patiently(self._sign)
        self._bury()
        signs = threading.Thread(target=self._keep_signing, daemon=True)
        signs.start()
        try:
            yield self
        except BaseException as error:
            if not isinstance(error, DEADLY):
                with suppress(*LOST), self.engine.begin() as base:
                    base.execute(RELEASE, {"worker": self.worker})
            raise
        finally:
            self._stop.set()
            signs.join()
            with suppress(*LOST), self.engine.begin() as base:
                base.execute(text("delete from fewstep_workers where worker = :worker"), {"worker": self.worker})

    def together(
        self,
        stage: str,
        numbers: Sequence[int],
        work: Callable[[list[int]], list[Any]],
        most: int = 1024,
        told: Callable[[int], object] = bool,
        given_up: Callable[[int], Any] | None = None,
    ) -> list[Any]:
        """What `work` finds for each number (anything that JSON holds), done once by some worker. Not more than `most` in one go.

        told(n) is called whenever n of the numbers are known to be done. given_up(number) is told of one on which LIVES workers died;
        without it such a one is tried for ever.
        """
        wait = 0.02
        while True:
            mine, found, deaths = patiently(lambda: self._claim(stage, numbers, most))
            told(len(found))
            if mine:
                hopeless = given_up if deaths >= LIVES and found else None
                made = {mine[0]: hopeless(mine[0])} if hopeless else dict(zip(mine, work(mine), strict=True))
                patiently(lambda made=made: self._tell(stage, made))
                wait = 0.02
            elif len(found) == len(numbers):
                return [found[number] for number in numbers]
            else:
                time.sleep(wait)
                wait = min(2 * wait, 1.0)
                self._bury()

    @contextmanager
    def only(self, stage: str) -> Iterator[str | None]:
        """For what one worker does at a time: None if it is this worker's now, or else the name of the one whose it is."""
        mine, _, _ = patiently(lambda: self._claim(stage, [0], 1))
        yield None if mine else patiently(lambda: self._holder(stage))
        if mine:  # an exception leaves the claim to go with its worker
            patiently(lambda: self._forget(stage))

    def _claim(self, stage: str, numbers: Sequence[int], most: int) -> tuple[list[int], dict[int, Any], int]:
        """The numbers that are this worker's now, what was found for those that are done, and how many died on the first of its own."""
        key = {"campaign": self._campaign, "stage": stage}
        with self.engine.begin() as base:
            rows = {number: (found, alive) for number, found, alive in base.execute(ROWS, key)}
            done = {n: msgspec.json.decode(rows[n][0]) for n in numbers if n in rows and rows[n][0] is not None}
            free = [n for n in numbers if n not in done and (n not in rows or rows[n][1] in (None, self.worker))]
            if not free:
                return [], done, 0
            deaths = {number: count for number, count in base.execute(DEATHS, key)}
            died = {n: deaths.get(n, 0) + (n in rows and rows[n][1] is None) for n in free}
            free = [n for n in free if died[n] < ALONE] or [min(free, key=lambda n: died[n])]  # what may kill comes last, and alone
            workers = base.execute(text("select count(*) from fewstep_workers where campaign = :campaign"), key).scalar() or 1
            share, mine = min(most, -(-len(free) // workers)), list[int]()
            for number in free:
                again = number in rows and rows[number][1] == self.worker  # claimed, but the answer was lost
                if again or base.execute(CLAIM, key | {"number": number, "worker": self.worker}).first():
                    mine.append(number)
                    if number in rows and not again:
                        base.execute(DIED, key | {"number": number})
                if len(mine) == share:
                    break
            return mine, done, died[mine[0]] if mine else 0

    def _tell(self, stage: str, made: dict[int, Any]) -> None:
        key = {"campaign": self._campaign, "stage": stage, "worker": self.worker}
        with self.engine.begin() as base:
            base.execute(TELL, [key | {"number": n, "found": msgspec.json.encode(value).decode()} for n, value in sorted(made.items())])

    def _holder(self, stage: str) -> str:
        with self.engine.begin() as base:
            row = base.execute(ROWS, {"campaign": self._campaign, "stage": stage}).first()
        return row[2].rsplit(" ", 1)[0].replace(" ", ", process ") if row and row[2] else "a worker that has just ended"

    def _forget(self, stage: str) -> None:
        with self.engine.begin() as base:
            key = {"campaign": self._campaign, "stage": stage}
            base.execute(text("delete from fewstep_board where campaign = :campaign and stage = :stage"), key)

    def _sign(self) -> None:
        sign = f"insert into fewstep_workers values (:worker, :campaign, {self._now})"  # noqa: S608 (one of two constants)
        sign += " on conflict (worker) do update set seen = excluded.seen"
        with self.engine.begin() as base:
            base.execute(text(sign), {"worker": self.worker, "campaign": self._campaign})

    def _keep_signing(self) -> None:
        while not self._stop.wait(self._grace / 6):
            with suppress(CampaignError):  # while the database is away; who needs it says so
                patiently(self._sign)

    def _bury(self) -> None:
        """Delete the rows of workers that are dead."""
        late = f"select worker, seen < {self._now} - :grace from fewstep_workers where campaign = :campaign"  # noqa: S608 (as above)

        def once() -> None:
            with self.engine.begin() as base:
                rows = base.execute(text(late), {"grace": self._grace, "campaign": self._campaign}).all()
                for worker in [worker for worker, silent in rows if worker != self.worker and (silent or self._gone(worker))]:
                    base.execute(text("delete from fewstep_workers where worker = :worker"), {"worker": worker})

        patiently(once)

    def _gone(self, worker: str) -> bool:
        where, process, _ = worker.rsplit(" ", 2)
        if where != self._machine:
            return False
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
