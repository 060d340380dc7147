"""Models that users bring, and networks on other devices."""

import importlib.util
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import ROOT, run
from rich.progress import Progress
from torch import nn

from search.campaign import campaign, claim
from search.errors import CampaignError
from search.settings import Named, settings
from search.spanned import forward_mode
from search.starts import fitted_for
from solvers import At, FittedFor, ScheduleError, compile, preset, process, save
from solvers import load as load_file
from teacher import own
from teacher.__main__ import device_of_rank
from teacher.denoiser import Teacher, digest
from teacher.errors import TeacherError
from teacher.models import load, ready
from teacher.place import placed

MINE = """
import torch
from solvers import process
from teacher.denoiser import Teacher, digest, wrap

def small(width=4, broken=False):
    if broken:
        return torch.zeros(2) @ torch.zeros(3)
    network = torch.nn.Linear(width, width)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    vp = process("vp-linear")
    return Teacher("small", wrap(lambda x, t: network(x), vp, "x0"), vp, 1.0, 1e-3, (width,), digest(network), network=network)

def number():
    return 3

def missing():
    torch.nn.Linear(2, 2).load_state_dict({})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)


def test_a_function_in_the_current_folder_makes_a_model(folder):
    teacher = load("mine:small", width=6)
    assert (teacher.name, teacher.shape) == ("small", (6,))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mine:large", {}, "has no function 'large'"),
        ("nowhere:small", {}, "No module named 'nowhere'"),
        ("mine:small", {"depth": 3}, "does not take these options"),
        ("mine:small", {"name": 3}, "does not take these options"),
        ("torch:zeros", {}, "does not take these options"),
        ("digits", {"guidance": "abc"}, "does not take these options"),
        ("digits", {"guidance": None}, "does not take these options"),
        ("mine:missing", {}, "mine.py, line 19: RuntimeError: Error(s) in loading"),
        ("mine:number", {}, "is a int; the function should return"),
        ("mine:small", {"broken": True}, "mine.py, line 8: RuntimeError"),
        ("digits", {"depth": 3}, "does not take these options"),
    ],
)
def test_a_model_that_cannot_be_made_is_refused_in_one_sentence(folder, name, options, said):
    with pytest.raises(TeacherError, match=re.escape(said)) as refusal:
        load(name, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("digest", "flowers-v1", "64 hexadecimal digits"),
        ("prediction", "epsilon", "no prediction 'epsilon'"),
        ("shape", ("4", None), "that is no number"),
        ("shape", (4.9,), "that is no number"),
        ("knobs", {"guidance": "abc"}, "that is no number"),
        ("knobs", {"guidance": float("nan")}, "that is nan"),
        ("start", float("inf"), "that is inf"),
        ("process", "vp-linear", "not one that solvers.process"),
        ("network", print, "not a torch.nn.Module"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused_when_it_is_made(folder, field, value, said):
    with pytest.raises((TeacherError, ScheduleError), match=said):
        replace(load("mine:small"), **{field: value})


def test_a_teacher_is_the_same_however_its_numbers_were_written(folder):
    one = replace(load("mine:small"), shape=[4], knobs={"guidance": 2}, start=1)
    other = replace(load("mine:small"), shape=(4,), knobs=(("guidance", 2.0),), start=1.0)
    assert one.facts([0]) == other.facts([0])
    assert one.card == other.card


def test_what_changes_the_images_is_among_the_facts_of_a_cached_image(folder):
    teacher = load("mine:small")
    others = (
        replace(teacher, conditions=lambda seeds: torch.tensor(seeds)),
        replace(teacher, conditions=lambda seeds: torch.tensor(seeds) + 1),
        replace(teacher, conditions=lambda seeds: torch.tensor(seeds)[:, None]),
        replace(teacher, shape=(5,)),
        replace(teacher, knobs={"guidance": 2.0}),
        replace(teacher, knobs={"guidance": 3.0}),
        replace(teacher, start=0.5),
        teacher,
    )
    assert len({repr(other.facts([0, 1])) for other in others}) == len(others)
    assert teacher.facts([0, 1]) == load("mine:small").facts([0, 1])


def test_a_model_that_answers_something_else_is_refused_before_anything_is_written(folder):
    teacher = load("mine:small")
    wrong = {
        r"not \(\(1, 4\)": lambda x, at, **told: x[:1],
        "torch.float64": lambda x, at, **told: x.double(),
        "not tuple": lambda x, at, **told: (x,),
        "failed at .*test_own_model.py, line": lambda x, at, **told: x @ x,
        "unexpected keyword": lambda x, at: x,
        "ValueError": lambda x, at, **told: x * float(at.sigma),
        "RuntimeError": lambda x, at, **told: x if at.sigma > 1 else 2 * x,
    }
    for said, denoiser in wrong.items():
        with pytest.raises(TeacherError, match=said):
            own.tried(replace(teacher, denoiser=denoiser))
    for conditions in (lambda seeds: torch.zeros(1, 4), lambda seeds: torch.tensor(3), lambda seeds: [0] * len(seeds)):
        with pytest.raises(TeacherError, match="a row for each seed"):
            own.tried(replace(teacher, conditions=conditions))
    assert own.tried(teacher) is teacher


def test_a_campaign_is_not_taken_up_by_a_model_that_makes_other_images(folder):
    words = {"model": {"name": "mine:small"}, "nfe": 4, "directory": "here", "perceptual": [], "compare": []}
    with Progress(disable=True) as progress:
        ours = campaign(settings(words), progress)
    claim(ours)
    claim(ours)
    with pytest.raises(CampaignError, match="other images"):
        claim(replace(ours, teacher=replace(ours.teacher, start=0.5)))


@pytest.mark.parametrize(("options", "chunk", "said"), [([1], 64, "names and values"), ({}, 0, "one sample or more")])
def test_a_model_that_cannot_be_asked_so_is_refused(options, chunk, said):
    with pytest.raises(TeacherError, match=said):
        ready("digits", options, "cpu", chunk)


def test_code_is_run_when_a_user_names_it_and_never_when_a_file_does(folder):
    teacher = load("mine:small")
    for name in ("mine:small", teacher.name):
        schedule, fitted = preset("ddim", [1.0, 0.5, 1e-3], teacher.process), FittedFor(name, teacher.digest)
        save(compile(schedule), "a.schedule.json", recipe=schedule, process=teacher.process, fitted_for=fitted)
        with pytest.raises(CampaignError, match=f"fitted for '{name}'.*say model=MODULE:FUNCTION"):
            fitted_for(["a.schedule.json"], {})


def test_options_beside_a_file_are_those_of_the_files_model(folder):
    teacher = load("digits")
    schedule = preset("ddim", [80.0, 1.0, 0.02], teacher.process)
    card = FittedFor("digits", teacher.digest, guidance=2.0)
    save(compile(schedule), "a.schedule.json", recipe=schedule, process=teacher.process, fitted_for=card)
    assert fitted_for(["a.schedule.json"], {}) == Named("digits", {"guidance": 2.0})
    assert fitted_for(["a.schedule.json"], {"guidance": 3.0}) == Named("digits", {"guidance": 3.0})


def page() -> tuple[str, list[list[str]]]:
    """The module on docs/own-model.md, and the commands below it."""
    text = (ROOT / "docs" / "own-model.md").read_text()
    (code,) = re.findall(r"```python\n# my_models\.py\n(.*?)```", text, re.DOTALL)
    return code, [shlex.split(line)[1:] for line in re.findall(r"^python .*my_models:.*$", text, re.MULTILINE)]


def done(folder: Path, *words: str) -> None:
    """A command in a folder."""
    ended = run(*words, cwd=folder)
    assert ended.returncode == 0, ended.stderr


def test_the_commands_on_the_page_of_own_models_work_on_its_model(tmp_path):
    code, (search, train, solve) = page()
    (tmp_path / "my_models.py").write_text(code)
    seeds = ["seeds.fit=4", "seeds.select=2", "seeds.test=4"]
    assert "nfe=5" in search
    done(
        tmp_path,
        *("nfe=2" if word == "nfe=5" else word for word in search),
        *seeds,
        "tracker=none",
        "budget.trials=8",
        "budget.known=8",
        "budget.finalists=2",
    )
    done(tmp_path, *("2" if word.isdigit() else word for word in solve))
    assert train[1:] == search[1:]  # training needs minutes on it, so it is another model's below
    (path,) = tmp_path.glob("campaigns/*/*.schedule.json")
    fitted = load_file(path).fitted_for
    assert fitted is not None
    assert (fitted.model, fitted.guidance) == ("flowers", 2.0)


def test_own_models_are_learned_from_known_solvers_and_from_files(folder):
    seeds = ["seeds.fit=8", "seeds.select=4", "seeds.test=4", "learner=times", "learner.iterations=2", "workers=1", "chunk=3"]
    done(folder, "train.py", "model=mine:small", "model.options.width=5", "nfe=4", "known=8", *seeds)
    (path,) = folder.glob("campaigns/*/*.schedule.json")
    done(folder, "train.py", f"schedule={path}", "model=mine:small", "model.options.width=5", "out=again.schedule.json", *seeds)
    assert load_file(folder / "again.schedule.json").fitted_for == load_file(path).fitted_for


def test_the_model_on_the_page_has_forward_derivatives(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(page()[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    teacher = load("my_models:flowers", guidance=2.0)
    x, cond = torch.randn(2, *teacher.shape), teacher.conditions([0, 1])
    at = At(*(torch.tensor(value, dtype=torch.float64) for value in (500.0, 0.6, 0.8)))
    with forward_mode():
        slope = torch.func.jvp(lambda x: teacher.denoiser(x, at, cond=cond, guidance=2.0), (x,), (torch.ones_like(x),))[1]
    step = 1e-2
    ahead, behind = (teacher.denoiser(x + by, at, cond=cond, guidance=2.0) for by in (step, -step))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=0.05, atol=0.05)


def test_a_network_is_asked_where_it_is_and_its_answer_goes_back_to_where_it_was_asked_from():
    network = nn.Linear(4, 4)
    seen = []

    def denoiser(x, at, **told):
        seen.extend([x.device.type, told["cond"].device.type, network.weight.device.type])
        return x

    moved = placed(Teacher("small", denoiser, process("ve"), 10.0, 0.1, (4,), digest(network), network=network), "meta")
    one = torch.ones(())
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # it has no data to bring back
        moved.denoiser(torch.ones(3, 4), At(one, one, one), cond=torch.ones(3))
    assert set(seen) == {"meta"}


def test_a_network_is_asked_for_no_more_samples_than_a_chunk_has():
    sizes = []

    def denoiser(x, at, *, cond, guidance):
        sizes.append((len(x), len(at.sigma)))
        return guidance * x * at.sigma[:, None] + cond[:, None]

    whole = Teacher("small", denoiser, process("ve"), 10.0, 0.1, (4,), "0" * 64)
    x, sigma, cond = torch.randn(7, 4), torch.rand(7), torch.arange(7.0)
    at = At(sigma, torch.ones(7), sigma)
    parts = placed(whole, chunk=3).denoiser(x, at, cond=cond, guidance=2.0)
    assert sizes == [(3, 3), (3, 3), (1, 1)]
    torch.testing.assert_close(parts, denoiser(x, at, cond=cond, guidance=2.0))


@pytest.mark.parametrize(("name", "options"), [("digits", {}), ("digits", {"guidance": 2.0}), ("galaxies", {})])
def test_no_part_of_a_teacher_stays_behind_when_its_network_moves(name, options):
    if name == "galaxies" and importlib.util.find_spec("galaxygrad") is None:
        pytest.skip("the galaxygrad wheel is not installed")
    teacher = load(name, **options)
    assert teacher.network is not None
    teacher.network.to("meta")  # tensors without data, which refuse to meet tensors of the CPU
    x, classes = torch.ones(2, *teacher.shape, device="meta"), teacher.conditions([1, 2])
    for cond in (None, classes if classes is None else classes.to("meta")):
        for at in (torch.tensor(3.0, dtype=torch.float64), torch.tensor([3.0, 2.0], dtype=torch.float64)):
            answer = teacher.denoiser(x, At(at, torch.ones_like(at), at), cond=cond, **dict(teacher.knobs))
            assert (answer.device.type, answer.shape, answer.dtype) == ("meta", x.shape, x.dtype)


def test_a_device_that_is_not_there_or_a_model_without_a_network_is_refused_in_one_sentence():
    with pytest.raises(TeacherError, match="cannot be moved to 'nonsense'"):
        placed(load("digits"), "nonsense")
    with pytest.raises(TeacherError, match="has no network"):
        placed(load("gaussian"), "cuda")


def test_the_digest_is_that_of_the_weights_and_what_else_makes_the_answers():
    one, same, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(one.state_dict())
    assert digest(one) == digest(same) != digest(other)
    assert len({digest(one), digest(one, "eps"), digest(one, "v"), digest(one, 1.0)}) == 4
    many = torch.zeros(5, 77, 16)
    assert digest(one, many) != digest(one, many.index_fill(0, torch.tensor([2]), 1.0))
    one.register_buffer("kept", torch.zeros(1), persistent=False)
    assert digest(one) != digest(same)
    with pytest.raises(TeacherError, match="not of list"):
        digest(one, [1.0])  # pyright: ignore[reportArgumentType]
    assert digest(one.half()) != digest(same)


@pytest.mark.parametrize(
    ("said", "rank", "used"), [("cuda", "3", "cuda:3"), ("cuda:1", "3", "cuda:1"), ("cpu", "3", "cpu"), ("cuda", None, "cuda")]
)
def test_under_torchrun_every_process_takes_a_gpu_of_its_own(monkeypatch, said, rank, used):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert device_of_rank(said) == used
