"""`python -m solvers`, train.py and the pages in docs/ do what they say."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from commands import ROOT, run
from rich.progress import Progress
from test_campaign import TINY

from search.errors import CampaignError
from search.evaluate import Evaluator
from search.follow import state_of
from search.learn import check_free, learn, lesson
from search.storage import held
from solvers import FittedFor, Score, compile, load, named_grid, preset, process, sample, save
from solvers.commands.show import show
from solvers.registry import DISTINCT


def python(*words):
    """A Python of its own, as a shell starts it."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    where, path = process("ve", sigma_max=80.0), tmp_path_factory.mktemp("files") / "a.schedule.json"
    schedule = preset("unipc-2", named_grid("karras", where, 4, 80.0, 0.02), where)
    save(compile(schedule), path, recipe=schedule, fitted_for=FittedFor(model="gaussian"))
    return path


def test_show_names_every_step_and_check_proves_four_things(file):
    shown, checked = run("-m", "solvers", "show", file), run("-m", "solvers", "check", file)
    assert shown.returncode == checked.returncode == 0
    assert shown.stdout.count("\n  step ") == 4
    assert len(checked.stdout.splitlines()) == 4


def test_show_takes_a_score_without_an_interval_and_a_schedule_that_never_asks(tmp_path):
    where = process("ve", sigma_max=80.0)
    made = preset("ddim", [80.0, 0.02], where)
    made = msgspec.structs.replace(made, steps=(msgspec.structs.replace(made.steps[0], answer="zero-x0"),))
    score = Score("rmse", 8, 0.1, 0.08, 0.12, baseline="ddim", ratio=0.5)
    assert "0.500 of ddim" in "\n".join(show(save(compile(made), tmp_path / "x.schedule.json", recipe=made, scores=[score])))


def test_a_damaged_file_ends_in_one_line_and_a_status(file, tmp_path):
    (tmp_path / "b.schedule.json").write_text(file.read_text().replace("0.02", "0.03", 1))
    done = python("-m", "solvers", "check", tmp_path / "b.schedule.json")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*\n", done.stderr)
    assert done.stdout == ""


def test_solvers_imports_nothing_beyond_torch_numpy_and_msgspec():
    heavy = "('optuna', 'hydra', 'omegaconf', 'wandb', 'lpips', 'matplotlib', 'rich', 'safetensors', 'diffusers', 'teacher', 'search')"
    done = python("-c", f"import sys, solvers; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]"


def test_the_shipped_json_schema_is_that_of_this_release_and_accepts_a_file(file):
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    shipped = json.loads((ROOT / "docs" / "schedule.schema.json").read_bytes())
    assert json.loads(run("-m", "solvers", "schema").stdout) == shipped
    jsonschema.validate(json.loads(file.read_bytes()), shipped)
    wrong = json.loads(file.read_bytes()) | {"colour": "red"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, shipped)


def test_the_numpy_program_in_the_docs_executes_a_file_as_we_do(file):
    page = (ROOT / "docs" / "schedule-file.md").read_text()
    program = next(code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "def run" in code)
    assert len([line for line in program.splitlines() if line.strip()]) <= 15
    scope: dict = {}
    exec(program, scope)
    x = np.random.default_rng(0).standard_normal((3, 5)) * 80
    theirs = scope["run"](file, lambda x, label, alpha, sigma: np.tanh(x) / (1 + sigma), x)
    ours = sample(lambda x, at: x.tanh() / (1 + at.sigma), torch.tensor(x), load(file).tableau)
    np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-9, atol=1e-12)


def test_the_conformance_page_has_a_line_for_every_method():
    page = (ROOT / "docs" / "conformance.md").read_text()
    operators = ["dpm-solver-v3", "gddim-bdm", "gddim-cld"]
    assert re.findall(r"^\| `([\w-]+)`", page, re.M) == [*DISTINCT, *operators]  # `make conformance` writes it


def test_train_writes_a_better_file_that_says_where_it_comes_from(file, tmp_path):
    for learner, methods in (("times", {"multistep"}), ("rows", {"weights"})):
        out = tmp_path / f"{learner}.schedule.json"
        words = [f"schedule={file}", f"out={out}", "seeds={fit: 16, select: 32, test: 64}", "learner.iterations=3", f"learner={learner}"]
        done = run("train.py", *words)
        assert done.returncode == 0, done.stderr
        learned = load(out)
        assert learned.scores[0].ratio_high < 1
        assert load(file).id in learned.provenance.note
        assert {step.method for step in learned.recipe.steps} == methods
        assert learned.tableau.times[1:-1] != load(file).tableau.times[1:-1]
        assert {path.name for path in tmp_path.glob(f"{learner}.*")} == {out.name, f"{learner}.schedule.png"}


def test_a_fit_killed_with_sigkill_ends_at_the_same_bits(file, tmp_path):
    whole, broken = tmp_path / "whole.schedule.json", tmp_path / "broken.schedule.json"
    words = [f"schedule={file}", "seeds={fit: 16, select: 16, test: 16}", "learner.iterations=2", "learner.shrink=[1e-3]"]
    assert run("train.py", *words, f"out={whole}").returncode == 0
    state = tmp_path / "broken.schedule.learning.json"
    process = subprocess.Popen([sys.executable, "train.py", *words, f"out={broken}"], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not state.exists() or len(json.loads(state.read_bytes())[1][0]["curve"]) < 3:  # the start and two iterations are written
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not broken.exists()
    done = run("train.py", *words, f"out={broken}")
    assert done.returncode == 0, done.stderr
    assert load(broken).id == load(whole).id
    assert not state.exists()


def test_what_one_process_learns_is_not_learned_by_another_at_the_same_time(file, tmp_path):
    lock = tmp_path / ".fewstep-x.schedule.json.lock"
    with held(lock, ""):
        done = run("train.py", f"schedule={file}", f"out={tmp_path / 'x.schedule.json'}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Another process learns" in done.stderr
    assert not list(tmp_path.iterdir())


def test_train_starts_from_several_files_or_from_known_solvers_and_shows_them_all(file, tmp_path):
    words = ["seeds={fit: 8, select: 16, test: 16}", "learner=times", "learner.iterations=1"]
    done = run("train.py", f"schedule={file},{file}", f"out={tmp_path / 'two.schedule.json'}", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learned") == 3  # one of them from the first without the emulator
    assert "best of 3 fits" in load(tmp_path / "two.schedule.json").provenance.note
    known = ["model=gaussian", "nfe=3", "known=30", f"directory={tmp_path / 'known'}"]
    for out in ([], [f"out={tmp_path / 'again.schedule.json'}"]):  # the second takes the tuned solvers from the directory
        done = run("train.py", *known, *words, *out)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("learned") == 4
    assert load(tmp_path / "known" / "known-times.schedule.json").fitted_for.model == "gaussian"
    assert "Say what to start from" in run("train.py").stderr


def test_train_takes_the_files_that_a_campaign_writes_and_refuses_them_for_another_model(tmp_path):
    assert run("search.py", *TINY, "tracker=none", f"directory={tmp_path / 'c'}").returncode == 0
    schedule = tmp_path / "c" / "c.schedule.json"
    lesson = [f"schedule={schedule}", "seeds={fit: 8, select: 8, test: 16}", "learner.iterations=2"]
    done = run("train.py", *lesson)
    assert done.returncode == 0, done.stderr
    again = run("train.py", *lesson)
    assert again.returncode == 1
    assert "there already" in again.stderr
    other = run("train.py", *lesson, "model.name=mixture", f"out={tmp_path / 'other.schedule.json'}")
    assert other.returncode == 1
    assert re.fullmatch(r"error: This schedule was fitted for another model .*\n", other.stderr)


def test_a_command_that_is_asked_to_stop_while_python_runs_a_destructor_stops_all_the_same():
    done = python(
        "-c",
        """if True:
            import signal, sys, time
            from conf.entry import start

            class Going:
                def __del__(self):
                    signal.raise_signal(signal.SIGTERM)

            def main():
                try:
                    Going()
                    time.sleep(60)
                except KeyboardInterrupt:
                    sys.exit("stopped")

            start(main)
        """,
    )
    assert (done.returncode, done.stderr) == (1, "stopped\n")


def test_search_answers_an_unknown_word_and_a_wrong_number_in_one_line():
    for words, sentence in (
        (["model=cats"], "digits galaxies gaussian mixture"),
        (["sampler=magic"], "s3 tpe"),
        (["colour=red"], "colour"),
        (["nfe=0"], "nfe"),
        (["directory=${nowhere}"], "nowhere"),
    ):
        done = run("search.py", *words)
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
        assert sentence in done.stderr


def test_what_is_kept_beside_a_file_has_its_whole_name(tmp_path):
    assert [state_of(tmp_path / name).name for name in ("lr0.1", "a.schedule.json")] == ["lr0.1.learning.json", "a.schedule.learning.json"]


def test_what_is_learned_takes_nothings_place(tmp_path):
    (tmp_path / "pic.png").write_text("precious")
    (tmp_path / "there.json").write_text("precious")
    for name, said in (("pic.json", "pic.png is there already"), ("there.json", "is there already"), ("x.png", "learning curve")):
        with pytest.raises(CampaignError, match=said):
            check_free(tmp_path / name)
    for path in (tmp_path / ("x" * 300), tmp_path / ("x" * 250), Path("/proc/x.json"), tmp_path / "there.json" / "x.json"):
        with pytest.raises(CampaignError, match="cannot be written"):
            check_free(path)
    check_free(tmp_path / "new" / "x.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "pic.png", "there.json"]


def test_what_is_learned_can_be_written_where_a_sampler_diverges_on_a_test_seed(file, tmp_path, monkeypatch):
    really = Evaluator.errors
    monkeypatch.setattr(Evaluator, "errors", lambda *words: really(*words).index_fill(1, torch.tensor([3]), torch.nan))
    words = {"schedule": str(file), "out": str(tmp_path / "x.schedule.json"), "seeds": {"fit": 8, "select": 8, "test": 16}}
    learn(lesson(words | {"learner": {"level": "times", "iterations": 1}}), Progress(disable=True))
    assert load(tmp_path / "x.schedule.json").provenance.test_reads == 1


@pytest.mark.parametrize("command", ["search.py", "train.py"])
def test_a_file_where_a_folder_must_be_is_named_in_one_line(tmp_path, command):
    (tmp_path / ".cache").touch()
    done = run(command, *(TINY if command == "search.py" else ["model=gaussian", "nfe=3", "known=8"]), cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: \.cache.* cannot be written: Not a directory\.\n", done.stderr), done.stderr


def test_a_teacher_is_not_solved_for_no_seeds_and_a_script_that_exits_is_no_model(tmp_path):
    idle = run("-m", "teacher", "gaussian")
    assert idle.returncode == 2
    assert "say how many seeds" in idle.stderr
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    gone = run("-m", "teacher", "leaves:model", "--fit", 2, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert gone.returncode == 1
    assert re.fullmatch(r"error: .*SystemExit.*\n", gone.stderr), gone.stderr


def test_train_refuses_a_missing_file_and_an_unknown_level_in_one_line(file):
    for words, sentence in (
        (["schedule=/nowhere.json"], "cannot be read"),
        ([f"schedule={file}", "learner.level=magic"], "no learner level"),
        ([f"schedule={file}", "learner=magic"], "rows rows-adam statistics times times-labels weights"),
        ([f"schedule={file}", "out=${nowhere}"], "nowhere"),
        ([f"schedule={file}", "seed.fit=3"], "no setting 'seed.fit'"),
    ):
        done = run("train.py", *words)
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
        assert sentence in done.stderr
