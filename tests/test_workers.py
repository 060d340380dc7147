"""Several workers on one campaign, on sqlite and on a real PostgreSQL: killed and restarted under, they make the undisturbed trials."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy
import torch
from commands import Command
from rich.progress import Progress
from test_campaign import SMALL

from search import storage
from search.answers import Answers
from search.board import Board
from search.campaign import campaign
from search.errors import CampaignError
from search.run import run
from search.s3 import FORESEEN
from search.settings import settings
from solvers import load

# Workers batch differently, and a sampler that looks at values may tell rounding apart: so they propose at random.
SHARED = SMALL | {
    "sampler": {"name": "random"},
    "budget": {"trials": 32, "known": 16, "generation": 8, "finalists": 4},
    "grace": 3.0,
}


def worker(nfe, directory, url, machine="here", **changes):
    words = json.dumps(SHARED | {"nfe": nfe, "directory": str(directory), "storage": url} | changes)
    return Command("tests/slow_worker.py", words, machine)


def rows(engine, stage="search"):
    """(number, worker, told) of every claim."""
    try:
        with engine.connect() as base:
            query = sqlalchemy.text("select number, worker, found is not null from fewstep_board where stage = :stage order by number")
            return [tuple(row) for row in base.execute(query, {"stage": stage})]
    except sqlalchemy.exc.DBAPIError:  # not there yet, or restarting
        return []


def wait_until(what, workers):
    deadline = time.monotonic() + 180
    while not (found := what()):
        assert time.monotonic() < deadline
        assert all(process.poll() in (None, 0) for process in workers), [process.wait().stderr for process in workers if process.poll()]
        time.sleep(0.02)
    return found


def killed_in_the_middle(engine, workers, least):
    """(number, process): once `least` trials are told, a worker is killed while it evaluates a candidate that it has not told."""

    def claimed():
        claims = rows(engine)
        if sum(told for *_, told in claims) < least:
            return None
        return next(((n, w) for n, name, told in claims if not told for w in workers if f" {w.pid} " in name), None)

    while True:
        number, victim = wait_until(claimed, workers)
        victim.send_signal(signal.SIGSTOP)
        if (number, victim.pid, 0) in {(n, int(name.split()[-2]), told) for n, name, told in rows(engine)}:
            victim.send_signal(signal.SIGKILL)
            return number, victim
        victim.send_signal(signal.SIGCONT)  # it told while we looked


def trials(url, name):
    with storage.opened(url) as base:
        return [(t.number, t.params, t.value) for t in storage.finished(storage.open_study(base, name))]


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL of our own: (url, restart)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql: Debian's package `postgresql` has it")
    pytest.importorskip("psycopg")
    user = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
    who = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    home = Path(tempfile.mkdtemp(prefix="fewstep-postgres-"))
    if who:
        shutil.chown(home, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def do(*words):
        subprocess.run(
            [str(found[-1] / words[0]), *words[1:]], cwd=home, check=True, timeout=60, env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **who,
        )  # fmt: skip

    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={home}"
    do("initdb", "-D", str(home / "base"), "-U", "fewstep", "-A", "trust", "-E", "UTF8", "--no-sync")
    control = ("pg_ctl", "-D", str(home / "base"), "-w", "-l", str(home / "log"), "-o", options)
    do(*control, "start")
    yield f"postgresql+psycopg://fewstep@127.0.0.1:{port}/postgres", lambda: do(*control, "-m", "immediate", "restart")
    do("pg_ctl", "-D", str(home / "base"), "-m", "immediate", "stop")
    shutil.rmtree(home)


def check(engine, url, workers, victim, number, nfe, directory):
    """Whatever happened, the workers left what one leaves that nobody disturbs."""
    undisturbed = directory.parent / "alone" / "shared"
    outcome = run(settings(SHARED | {"nfe": nfe, "directory": str(undisturbed)}), Progress(disable=True))
    expected = trials(f"sqlite:///{undisturbed / 'study.sqlite'}", "shared")
    for process in workers:
        done = process.wait(240)
        assert done.returncode == (-signal.SIGKILL if process is victim else 0), done.stderr
    found = trials(url, "shared")
    assert [(n, params) for n, params, _ in found] == [(n, params) for n, params, _ in expected]  # all, in order, none twice
    assert [value for *_, value in found] == pytest.approx([value for *_, value in expected], rel=1e-4)
    claims = rows(engine)
    assert [n for n, *_ in claims] == list(range(32))
    assert all(told for *_, told in claims)
    told_by = {n: name for n, name, _ in claims}
    assert f" {victim.pid} " not in told_by[number]
    assert len(set(told_by.values())) >= 2  # the work was shared
    again = run(settings(SHARED | {"nfe": nfe, "directory": str(directory)}), Progress(disable=True))
    assert [load(file).id for file in again.schedule_files] == [load(file).id for file in outcome.schedule_files]
    assert {json.loads(path.read_text()) for path in directory.rglob("test-reads.json")} == {1}  # one worker concluded


def test_two_workers_on_sqlite_one_killed_in_the_middle_make_the_trials_of_one(tmp_path):
    directory, url = tmp_path / "shared", f"sqlite:///{tmp_path / 'base.sqlite'}"
    workers = [worker(4, directory, url) for _ in range(2)]
    engine = sqlalchemy.create_engine(url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true")  # waits for nobody
    number, victim = killed_in_the_middle(engine, workers, 9)
    victim.wait()  # gone, as its machine knows: its candidates need not wait for the grace to pass
    check(engine, url, workers, victim, number, 4, directory)
    engine.dispose()


def test_two_workers_foresee_from_each_others_answers_and_one_alone_from_those_of_the_dead(tmp_path):
    directory, url = tmp_path / "shared", f"sqlite:///{tmp_path / 'base.sqlite'}"
    workers = [worker(4, directory, url, sampler=SMALL["sampler"]) for _ in range(2)]
    engine = sqlalchemy.create_engine(url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true")
    _, victim = killed_in_the_middle(engine, workers, 17)
    with engine.connect() as base:
        told = [n for n, _, told in rows(engine) if told]
        kept = base.execute(sqlalchemy.text("select number from fewstep_answers where campaign like 'shared %'")).scalars().all()
    assert set(told) <= set(kept)  # whoever is told of a trial finds its answers
    for process in workers:
        done = process.wait(240)
        assert done.returncode == (-signal.SIGKILL if process is victim else 0), done.stderr
    with storage.opened(url) as base:
        found = storage.finished(storage.open_study(base, "shared"))
        with base.engine.connect() as tables:
            assert tables.execute(sqlalchemy.text("select count(*) from fewstep_answers")).scalar() == 0  # forgotten in the end
    assert [t.number for t in found] == list(range(32))
    assert all(FORESEEN in t.system_attrs for t in found[16:])
    engine.dispose()


def test_four_workers_on_postgresql_find_a_front_through_a_killed_one_and_a_restart_of_the_database(postgres, tmp_path):
    url, restart = postgres
    directory = tmp_path / "shared"
    workers = [worker([2, 3], directory, url, machine=f"m{n}") for n in range(4)]  # all at once on an empty database
    engine = sqlalchemy.create_engine(url, pool_pre_ping=True)
    number, victim = killed_in_the_middle(engine, workers, 5)  # to other machines it is only silent
    wait_until(lambda: sum(told for *_, told in rows(engine)) >= 9, [w for w in workers if w is not victim])
    restart()
    check(engine, url, workers, victim, number, [2, 3], directory)
    engine.dispose()


@pytest.fixture
def base(tmp_path):
    with storage.opened(f"sqlite:///{tmp_path / 'base.sqlite'}") as opened:
        yield opened


def test_a_claim_is_one_workers_a_dead_ones_is_taken_over_and_the_first_to_tell_wins(base):
    slow, other = Board(base.engine, "c", 60.0), Board(base.engine, "c", 60.0)
    begun, told = threading.Event(), threading.Event()

    def stall(numbers):
        begun.set()
        told.wait()
        return ["late"] * len(numbers)

    with slow.at_work():
        answers = []
        thread = threading.Thread(target=lambda: answers.append(slow.together("s", range(4), stall)))
        thread.start()
        begun.wait()
        with other.at_work():
            assert other._claim("s", range(4), 4) == ([], {}, 0)  # all claimed: a worker alone takes everything
            with base.engine.begin() as connection:  # as if it had been silent
                connection.execute(sqlalchemy.text("delete from fewstep_workers where worker = :w"), {"w": slow.worker})
            assert other.together("s", range(4), lambda numbers: [f"first {n}" for n in numbers]) == [f"first {n}" for n in range(4)]
            told.set()
            thread.join()
            assert answers == [[f"first {n}" for n in range(4)]]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_number_that_kills_its_workers_is_tried_alone_and_then_given_up(request, tmp_path, kind):
    url = f"sqlite:///{tmp_path / 'base.sqlite'}" if kind == "sqlite" else request.getfixturevalue("postgres")[0]
    killed, tried, found = 0, [], []

    def work(numbers):
        tried.append(numbers)
        if 2 in numbers:
            raise MemoryError
        return [10 * n for n in numbers]

    def stop(numbers):
        tried.append(numbers)
        raise KeyboardInterrupt

    with storage.opened(url) as base:
        for _ in range(9):
            with suppress(MemoryError), Board(base.engine, "deadly", 60.0).at_work() as board:
                found = board.together("s", range(4), work, given_up=lambda n: f"{n} given up")
                break
            killed += 1
            if killed == 3:  # what is known of it is not forgotten when somebody is stopped by hand
                with suppress(KeyboardInterrupt), Board(base.engine, "deadly", 60.0).at_work() as board:
                    board.together("s", range(4), stop)
    assert found == [0, 10, "2 given up", 30]
    assert tried == [[0, 1, 2, 3], [0, 1, 2, 3], [0], [1], [2], [3], [3], [2], [2]]
    assert killed == 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_work_that_is_stopped_by_hand_or_says_what_is_wrong_is_not_to_blame(base, error):
    def work(numbers):
        raise error

    for _ in range(9):
        with suppress(error), Board(base.engine, "c", 60.0).at_work() as board:
            board.together("s", range(2), work, given_up=lambda n: "given up")
    with Board(base.engine, "c", 60.0).at_work() as board:
        assert board.together("s", range(2), lambda numbers: numbers, given_up=lambda n: "given up") == [0, 1]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_answers_are_shared_and_the_first_that_are_kept_stay(request, tmp_path, kind):
    url = f"sqlite:///{tmp_path / 'base.sqlite'}" if kind == "sqlite" else request.getfixturevalue("postgres")[0]
    first, second = torch.rand(3, 2).half(), torch.rand(3, 2).half()
    with storage.opened(url) as base:
        mine, theirs, other = (Answers(name, base.engine) for name in ("one", "one", "other"))
        mine.keep({4: first, 7: second})
        theirs.keep({4: second})
        mine.keep({})
        found = theirs.of([4, 5, 7])
        assert sorted(found) == [4, 7]
        assert torch.equal(found[4], first)
        assert torch.equal(found[7], second)
        assert other.of([4]) == {}
    alone = Answers("one")
    alone.keep({4: first})
    assert alone.of([3, 4]) == {4: first}


def test_appending_the_same_trials_twice_keeps_each_once(base):
    import optuna

    study = storage.open_study(base, "c")
    made = [optuna.trial.create_trial(value=float(n)) for n in range(5)]
    storage.append(study, made[:3], 0)
    storage.append(study, made, 0)
    storage.append(storage.open_study(base, "c"), made[2:], 2)
    assert [t.value for t in storage.finished(study)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_study_of_another_question_is_refused(base, tmp_path):
    url = f"sqlite:///{tmp_path / 'base.sqlite'}"
    storage.note(storage.open_study(base, "c"), "campaign", {"model": "cats"})
    with pytest.raises(CampaignError, match=r"study 'c' in the storage belongs to another campaign \(other model, nfe"):
        run(settings(SHARED | {"directory": str(tmp_path / "c"), "storage": url}), Progress(disable=True))


def test_records_of_another_question_are_not_found_under_the_same_name(tmp_path):
    def key(**changes):
        return campaign(settings(SHARED | {"directory": str(tmp_path / "c")} | changes), Progress(disable=True)).key

    assert key() == key(learner={"level": "times"}) != key(nfe=5)
    assert key(space={"relax": [1, 1]}) == key(space={"relax": [1.0, 1.0]})  # one question, however its numbers are spelled


@pytest.mark.parametrize("away", ["_sign", "_holder", "_forget"])
def test_a_database_that_is_away_is_waited_for_from_the_first_sign_of_life_to_the_last(base, monkeypatch, away):
    tried, really = [], getattr(Board, away)

    def once_away(self, *words):
        tried.append(away)
        if len(tried) == 1:
            raise sqlalchemy.exc.OperationalError("select 1", {}, OSError("away"))
        return really(self, *words)

    monkeypatch.setattr(Board, away, once_away)
    with Board(base.engine, "c", 60.0).at_work() as board, board.only("s") as first:
        assert first is None
        with Board(base.engine, "c", 60.0).at_work() as other, other.only("s") as second:
            assert second is not None
    assert len(tried) > 1


def test_a_worker_whose_database_was_away_too_long_for_a_sign_of_life_signs_again(base, monkeypatch):
    signed, really = [], Board._sign

    def away(self):
        signed.append(len(signed))
        if 1 <= len(signed) - 1 <= 2:
            raise CampaignError("The storage has been away for 120 seconds.")
        really(self)

    monkeypatch.setattr(Board, "_sign", away)
    with Board(base.engine, "c", 0.3).at_work():
        deadline = time.monotonic() + 30
        while len(signed) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_two_ranks_solve_every_shard_of_the_teacher_between_them(tmp_path):
    def solve(rank):
        words = ("-m", "teacher", "gaussian", "--fit", 100, "--select", 10)
        return Command(*words, cwd=tmp_path, RANK=str(rank), WORLD_SIZE="2")

    said = [process.wait().stdout.splitlines() for process in [solve(0), solve(1)]]
    assert [len(lines) for lines in said] == [2, 1]  # two shards of `fit` and one of `select`
    assert len(list((tmp_path / ".cache" / "trajectories").glob("*.safetensors"))) == 3
