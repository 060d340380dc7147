"""Operators in a file: their sidecar brings back every bit, belongs to the id, and is refused in one sentence when it is not the one."""

import json
import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from oracle import CASES, mixture
from test_dpm_solver_v3 import knots, smooth

from solvers import At, Evaluation, Row, ScheduleError, ScheduleFile, Tableau, compile, dpm_solver_v3, load, preset, process, sample, save
from solvers import sidecar as room
from solvers.adapters.k_diffusion import sample_fewstep
from solvers.adapters.lists import sigmas_of
from solvers.adapters.scheduler_config import scheduler_config
from solvers.commands.check import check
from solvers.commands.compatibility import compatibility
from solvers.commands.diff import diff
from solvers.commands.export import export
from solvers.commands.interpolate import interpolate
from solvers.commands.show import show
from solvers.file import parse
from solvers.golden import golden_run
from solvers.kinds import Field, Matrix, Operator, Spectral

F64 = torch.float64
VP = CASES["vp-linear"].process
GRID = [0.9, 0.5, 0.2, 0.1]


def v3(dim: int = 4, order: int = 3) -> Tableau:
    return dpm_solver_v3(GRID, VP, smooth(knots(VP, 0.9, 0.1, 40), dim), order, corrector="exact")


def table(kind: str, seed: int = 0) -> Tableau:
    """Rows with operators of one kind among numbers, on a sample of two axes."""
    generator = torch.Generator().manual_seed(seed)

    def operator() -> Operator:
        if kind == "matrix":
            return Matrix(torch.randn(3, 3, generator=generator, dtype=F64), axis=1)
        values = torch.randn(2, 3, generator=generator, dtype=F64)
        return Field(values) if kind == "tensor" else Spectral(values)

    def evaluation(t: float) -> Evaluation:
        return Evaluation(t, float(VP.alpha(t)), float(VP.sigma(t)))

    rows = [Row("x0", 0.9, {"xT": 1.0}, evaluation(0.9)), Row("r0", 0.9, {"x0": operator(), "D0": -0.5})]
    rows += [Row("x1", 0.5, {"x0": 0.3, "r0": operator(), "one": operator(), "z0": 0.25}, evaluation(0.5))]
    return Tableau((*rows, Row("x2", 0.1, {"x1": operator(), "D1": operator()})))


KINDS = ("tensor", "dct", "matrix")
every_kind = pytest.mark.parametrize("kind", KINDS)


def assert_equal_bits(one: Tableau, other: Tableau) -> None:
    for row, twin in zip(one.rows, other.rows, strict=True):
        assert (row.slot, row.time, row.evaluation, list(row.terms)) == (twin.slot, twin.time, twin.evaluation, list(twin.terms))
        for c, d in zip(row.terms.values(), twin.terms.values(), strict=True):
            assert type(c) is type(d)
            if isinstance(c, Operator) and isinstance(d, Operator):
                assert c.layout == d.layout
                assert torch.equal(c.values, d.values)
            else:
                assert c == d


def answer(x: torch.Tensor, at: At) -> torch.Tensor:
    return x.tanh() / (1 + at.sigma)


def sidecar_of(folder: Path) -> Path:
    (found,) = folder.glob("*.safetensors")
    return found


# -------------------------------------------------------------------------------------------------------------- there and back


@every_kind
def test_a_file_with_operators_brings_back_every_bit_and_the_same_sample(kind: str, tmp_path: Path):
    made = table(kind)
    written = save(made, tmp_path / "x.schedule.json", process=VP)
    read = load(tmp_path / "x.schedule.json")
    assert read == written
    for found in (read, written):
        assert_equal_bits(found.tableau, made)
    x = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    assert torch.equal(*(sample(answer, x, t, noise=[5, 6]) for t in (made, read.tableau)))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert sha256(sidecar_of(tmp_path).read_bytes()).hexdigest() == sidecar_of(tmp_path).stem == read.executable.coefficients.sha256


def test_a_dpm_solver_v3_table_goes_through_a_file(tmp_path: Path):
    save(v3(), tmp_path / "x.schedule.json", process=VP)
    assert_equal_bits(load(tmp_path / "x.schedule.json").tableau, v3())


def test_the_id_covers_the_tensors_and_the_same_table_gives_the_same_files(tmp_path: Path):
    first, again, other = (save(t, tmp_path / f"{i}.json", process=VP) for i, t in enumerate((table("dct"), table("dct"), table("dct", 1))))
    assert first.id == again.id != other.id
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert_equal_bits(load(tmp_path / "0.json").tableau, table("dct"))  # whatever was written beside it since


def test_a_file_of_numbers_has_no_sidecar(tmp_path: Path):
    recipe = preset("ddim", GRID, VP)
    save(compile(recipe), tmp_path / "x.json", recipe=recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# -------------------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "x.schedule.json"
    save(table("tensor"), path, process=VP)
    return path


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(ScheduleError, match=match) as error:
        load(path)
    assert "\n" not in str(error.value)


def resigned(written: Path, tensors: dict[str, torch.Tensor], **said: Any) -> None:
    """Other tensors with every hash made right again, as no accident would."""
    data = safetensors.torch.save(tensors)
    document = json.loads(written.read_bytes())
    document["executable"]["coefficients"] |= {"sha256": sha256(data).hexdigest(), **said}

    def digest(part: Any) -> str:
        return sha256(json.dumps(part, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    document["id"] = digest(document["executable"])
    document["digest"] = digest({k: v for k, v in document.items() if k not in ("executable", "digest")})
    (written.parent / f"{sha256(data).hexdigest()}.safetensors").write_bytes(data)
    written.write_text(json.dumps(document))


def test_a_missing_damaged_or_swapped_sidecar_is_one_sentence(written: Path, tmp_path: Path):
    sidecar = sidecar_of(tmp_path)
    good = sidecar.read_bytes()
    for data in (good[:-1], good + b"\0", b"", bytes([*good[:-3], good[-3] ^ 1, *good[-2:]])):
        sidecar.write_bytes(data)
        assert_refused(written, "changed or damaged")
    save(table("tensor", 1), tmp_path / "other" / "x.json", process=VP)
    shutil.copy(sidecar_of(tmp_path / "other"), sidecar)
    assert_refused(written, "changed or damaged after it was written, or belongs to another file")
    sidecar.unlink()
    assert_refused(written, "safetensors' cannot be read: No such file")
    sidecar.mkdir()
    assert_refused(written, "not a regular file")
    with pytest.raises(ScheduleError, match="which goes with it"):
        parse(written.read_bytes())


def test_a_sidecar_of_other_shapes_types_or_names_is_refused_even_with_the_right_hashes(written: Path, tmp_path: Path):
    good = safetensors.torch.load_file(sidecar_of(tmp_path))
    resigned(written, good)
    load(written)
    first = next(iter(good))
    resigned(written, good | {first: torch.zeros(3, 2, dtype=F64)})
    assert_refused(written, r"shape \(3, 2\) and not \(2, 3\)")
    resigned(written, good | {first: good[first].float()})
    assert_refused(written, "other tensors than its rows name")
    resigned(written, good | {"more": good[first].clone()})
    assert_refused(written, "other tensors than its rows name")
    resigned(written, {name: v for name, v in good.items() if name != first})
    assert_refused(written, "other tensors than its rows name")
    resigned(written, good | {first: good[first] / 0})
    assert_refused(written, "not finite")
    for said in ({"kind": "mask"}, {"shape": []}, {"shape": [2, 0]}, {"axis": -1}, {"path": "/etc/passwd"}, {"sha256": "../x"}):
        resigned(written, good, **said)
        assert_refused(written, "damaged or not a schedule")


def test_a_tensor_that_no_sidecar_was_said_to_hold_is_refused(tmp_path: Path):
    recipe = preset("ddim", GRID, VP)
    save(compile(recipe), tmp_path / "x.json", recipe=recipe)
    document = json.loads((tmp_path / "x.json").read_bytes())
    document["executable"]["rows"][1]["terms"][0][1] = "x1/x0"
    with pytest.raises(ScheduleError, match="needs the tensor 'x1/x0', which is not there"):
        parse(json.dumps(document).encode())


def test_a_refused_save_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    x = Row("x0", 0.9, {"xT": 1.0}, Evaluation(0.9, 0.5, 0.5))
    mixed = Tableau((x, Row("x1", 0.1, {"x0": Field(torch.ones(4, dtype=F64)), "D0": Spectral(torch.ones(4, dtype=F64))})))
    with pytest.raises(ScheduleError, match="different kinds or shapes"):
        save(mixed, tmp_path / "x.json", process=VP)
    with pytest.raises(ScheduleError, match="needs the process"):
        save(table("dct"), tmp_path / "x.json")
    monkeypatch.setattr(room, "MAX_SIDECAR", 100)
    with pytest.raises(ScheduleError, match="take 240 bytes, more than the 100"):
        save(table("dct"), tmp_path / "x.json", process=VP)
    assert not list(tmp_path.iterdir())


def test_without_safetensors_it_says_what_to_install(written: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert_refused(written, "pip install safetensors")


# -------------------------------------------------------------------------------------------------------- commands and programs


@every_kind
def test_check_proves_it_and_show_says_what_its_coefficients_are(kind: str, tmp_path: Path):
    file = save(table(kind), tmp_path / "x.schedule.json", process=VP)
    assert "golden example is reproduced" in check(file)[1]
    text = "\n".join(show(file))
    assert "row x1: 0.3 x0 + [...] r0 + [...] one + 0.25 z0" in text
    said = {
        "tensor": "a factor per element (2 x 3)",
        "dct": "a factor per frequency of the last axes (2 x 3)",
        "matrix": "matrices (3 x 3) along axis 1 of a sample",
    }
    assert f"[...] is {said[kind]}, in {sidecar_of(tmp_path).name}" in text


@every_kind
def test_the_worked_example_tells_every_coefficient_of_every_tensor(kind: str, tmp_path: Path):
    """Change any number of any tensor: some state of the example moves."""
    golden = save(table(kind), tmp_path / "x.json", process=VP).golden.states
    names = [(i, slot) for i, row in enumerate(table(kind).rows) for slot, c in row.terms.items() if isinstance(c, Operator)]
    for i, slot in names:
        for n in range(1 if kind == "dct" and slot == "one" else 9 if kind == "matrix" else 6):  # a constant has one frequency
            rows = list(table(kind).rows)
            changed: Any = rows[i].terms[slot]
            changed.values.view(-1)[n] += 0.1
            moved = golden_run(Tableau(tuple(rows))).states
            assert max(abs(a - b) for a, b in zip(golden, moved, strict=True)) > 1e-9


def test_diff_compares_operators_of_one_layout_and_names_those_of_two(tmp_path: Path):
    tables = {"a": table("tensor"), "b": table("tensor"), "c": table("tensor", 1), "d": table("dct"), "v3": v3()}
    files = {name: save(t, tmp_path / f"{name}.json", process=VP) for name, t in tables.items()}
    assert diff(files["a"], files["b"]) == ["the same sampler: equal evaluations, knobs and coefficients"]
    assert "coefficients differ" in diff(files["a"], files["c"])[0]
    assert "per element (2 x 3)" in diff(files["a"], files["d"])[0]
    assert "per frequency" in diff(files["a"], files["d"])[0]
    recipe = preset("ddim", GRID, VP)
    assert "numbers and a factor per element (4)" in diff(save(compile(recipe), tmp_path / "e.json", recipe=recipe), files["v3"])[0]


def test_k_diffusion_samples_with_factors_per_element(tmp_path: Path):
    file = save(v3(), tmp_path / "x.json", process=VP)

    def model(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        t = VP.time_of_sigma(sigma[0])
        return mixture()(y * VP.alpha(t), At(t, VP.alpha(t), VP.sigma(t)))

    x, sigmas = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=F64), torch.tensor(sigmas_of(file), dtype=F64)
    ours = sample(mixture(), x * sigmas[0] * VP.alpha(0.9), file.tableau)
    torch.testing.assert_close(sample_fewstep(model, x * sigmas[0], sigmas, schedule=file), ours, rtol=1e-9, atol=1e-9)


def test_a_program_that_cannot_run_operators_says_so_in_one_sentence(tmp_path: Path):
    files: dict[str, ScheduleFile] = {kind: save(table(kind), tmp_path / f"{kind}.schedule.json", process=VP) for kind in KINDS}
    for kind, file in files.items():
        said = compatibility(file)
        assert said["diffusers"].startswith("cannot run: its coefficients are tensors")
        assert said["k-diffusion"].startswith("everything" if kind == "tensor" else "cannot run")
        with pytest.raises(ScheduleError, match="holds numbers"):
            scheduler_config(file, "eps")
        with pytest.raises(ScheduleError, match="diffusers cannot run"):
            export(file, tmp_path / f"{kind}.schedule.json", "diffusers", tmp_path / "out", "eps")
        with pytest.raises(ScheduleError, match="recipe"):
            interpolate(file, 2, tmp_path / "y.json")
    with pytest.raises(ScheduleError, match="no list of sigmas says"):
        sample_fewstep(lambda y, s: y, torch.ones(1, 2, 3, dtype=F64), None, schedule=files["dct"])
    with pytest.raises(ScheduleError, match="no list of sigmas says"):
        export(files["matrix"], tmp_path / "matrix.schedule.json", "sigmas", tmp_path / "s.txt")


def test_the_comfyui_folder_carries_the_sidecar(tmp_path: Path):
    file = save(v3(), tmp_path / "x.schedule.json", process=process("ve"))
    export(file, tmp_path / "x.schedule.json", "comfyui", tmp_path / "node")
    assert load(tmp_path / "node" / "schedules" / "x.schedule.json") == file


@every_kind
def test_the_lines_for_operators_in_the_docs_execute_a_file_as_we_do(kind: str, tmp_path: Path):
    save(table(kind), tmp_path / "x.json", process=VP)
    scope: dict[str, Any] = {}
    page = (Path(__file__).parents[1] / "docs" / "schedule-file.md").read_text()
    exec(next(code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "def operators" in code), scope)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    weigh, tensors = scope["operators"](tmp_path / "x.json")
    rows = table(kind).rows
    for row in rows:
        for slot, c in row.terms.items():
            if isinstance(c, Operator):
                ours = c.apply(x).numpy()
                np.testing.assert_allclose(weigh(tensors[f"{row.slot}/{slot}"], x.numpy()), ours, rtol=1e-12, atol=1e-12)
