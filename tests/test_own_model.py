"""Models that users bring, and networks on other devices."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from search.errors import CampaignError
from search.starts import fitted_for
from solvers import At, FittedFor, compile, preset, process, save
from solvers import load as load_file
from teacher.__main__ import own
from teacher.denoiser import Teacher, digest
from teacher.errors import TeacherError
from teacher.models import load

HOME = Path(__file__).parents[1]
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
        ("mine:small", {"depth": 3}, "does not take the options depth"),
        ("mine:number", {}, "is a int; the function should return"),
        ("mine:small", {"broken": True}, "mine.py, line 8: RuntimeError"),
        ("digits", {"depth": 3}, "does not take the options depth"),
    ],
)
def test_a_model_that_cannot_be_made_is_refused_in_one_sentence(folder, name, options, said):
    with pytest.raises(TeacherError, match=re.escape(said)) as refusal:
        load(name, **options)
    assert "\n" not in str(refusal.value)


def test_code_that_a_file_names_is_not_run(folder):
    teacher = load("mine:small")
    schedule = preset("ddim", [1.0, 0.5, 1e-3], teacher.process)
    save(compile(schedule), "a.schedule.json", recipe=schedule, process=teacher.process, fitted_for=FittedFor("mine:small", teacher.digest))
    with pytest.raises(CampaignError, match="say model=mine:small"):
        fitted_for(["a.schedule.json"])


def test_the_page_on_own_models_works_as_written(tmp_path):
    page = (HOME / "docs" / "own-model.md").read_text()
    (code,) = re.findall(r"```python\n# my_models\.py\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^python search\.py (model=my_models:\S+ .*)$", page, re.MULTILINE)
    (tmp_path / "my_models.py").write_text(code)
    small = "tracker=none tolerance=0.1 budget.trials=8 budget.known=8 budget.finalists=2 seeds.fit=4 seeds.select=2 seeds.test=4"
    words = [*command.split(), *small.split(), "perceptual=[]", "compare=[]"]
    done = subprocess.run([sys.executable, HOME / "search.py", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("campaigns/*/*.schedule.json")
    fitted = load_file(path).fitted_for
    assert fitted is not None
    assert (fitted.model, fitted.guidance) == ("flowers", 2.0)


def test_a_network_is_asked_where_it_is_and_answers_where_it_is_asked_from():
    network = nn.Linear(4, 4)
    seen = []

    def denoiser(x, at, **told):
        seen.extend([x.device.type, told["cond"].device.type, network.weight.device.type])
        return torch.zeros(x.shape)

    teacher = Teacher("small", denoiser, process("ve"), 10.0, 0.1, (4,), "", network=network).on("meta")
    one = torch.ones(())
    assert teacher.denoiser(torch.ones(3, 4), At(one, one, one), cond=torch.ones(3)).device.type == "cpu"
    assert set(seen) == {"meta"}


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
        load("digits").on("nonsense")
    with pytest.raises(TeacherError, match="has no network"):
        load("gaussian").on("cuda")


def test_the_digest_is_that_of_the_weights_and_what_else_makes_the_answers():
    one, same, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(one.state_dict())
    assert digest(one) == digest(same) != digest(other)
    assert digest(one, "eps") != digest(one, "v")
    assert digest(one.half()) != digest(same)


@pytest.mark.parametrize(
    ("said", "rank", "used"), [("cuda", "3", "cuda:3"), ("cuda:1", "3", "cuda:1"), ("cpu", "3", "cpu"), ("cuda", None, "cuda")]
)
def test_under_torchrun_every_process_takes_a_gpu_of_its_own(monkeypatch, said, rank, used):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert own(said) == used
