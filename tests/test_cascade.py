"""Ratios regressed over NFE and guidance: exact where they are polynomials, refused where there are none."""

import msgspec
import pytest
import torch
from commands import run

from search.cascade import Setting, cascade, predicted, regression, setting_of
from search.errors import CampaignError
from solvers import FittedFor, Provenance, compile, load, named_grid, preset, process, save


def law(step, setting):
    n, g = setting
    return 1 + 0.1 * step - 0.02 * step**2 + 0.03 * n * step - 0.004 * g * n + 0.01 * g**2 * step


def test_polynomial_ratios_are_found_again_at_settings_that_were_not_seen():
    known = {Setting(n, g): [law(i, (n, g)) for i in range(2, n)] for n in (5, 6, 8, 10) for g in (1.0, 2.0, 4.0)}
    c = regression(known)
    assert c.shape == (3, 3, 3)
    for setting in (Setting(7, 3.0), Setting(12, 1.5)):
        wanted = torch.tensor([law(i, setting) for i in range(2, setting.nfe)])
        torch.testing.assert_close(torch.tensor(predicted(c, setting, setting.nfe - 2)), wanted, rtol=1e-6, atol=1e-6)


def test_a_single_setting_gives_itself_where_a_parabola_passes_through_its_ratios():
    ratios = [0.9, 1.2, 1.1]
    assert predicted(regression({Setting(5, 1.0): ratios}), Setting(5, 1.0), 3) == pytest.approx(ratios)


@pytest.fixture
def files(tmp_path):
    where, paths = process("ve", sigma_max=80.0), list[str]()
    for n in (4, 5, 6):
        schedule = preset(
            "dc-solver", named_grid("karras", where, n, 80.0, 0.02), where, ratios=[1, 1, *(0.8 + 0.02 * i * n for i in range(2, n))]
        )
        paths.append(str(tmp_path / f"{n}.schedule.json"))
        save(compile(schedule), paths[-1], recipe=schedule, fitted_for=FittedFor(model="gaussian"))
    return paths


def test_the_command_writes_a_file_with_the_predicted_ratios(files, tmp_path):
    out = tmp_path / "7.schedule.json"
    done = run("-m", "search.cascade", *files, "--nfe", 7, "--out", out)
    assert done.returncode == 0, done.stderr
    steps = load(out).recipe.steps
    assert [s.numbers.get("ratio", 1.0) for s in steps[2:]] == pytest.approx([0.8 + 0.14 * i for i in range(2, 7)])


def test_a_derived_file_keeps_what_its_network_is_and_takes_nobodys_place(tmp_path):
    where, paths = process("ve", sigma_max=80.0), list[str]()
    for n in (4, 5):
        schedule = preset("dc-solver", named_grid("karras", where, n, 80.0, 0.02), where, ratios=[1, 1, *[0.9] * (n - 2)])
        paths.append(str(tmp_path / f"{n}.schedule.json"))
        card = FittedFor(model="gaussian", guidance=3.0, teacher="somebody", teacher_error=1e-3)
        provenance = Provenance(licence="CC-BY-4.0", calls_per_evaluation=2, version="1", trial=3, test_reads=4)
        save(compile(schedule), paths[-1], recipe=schedule, fitted_for=card, provenance=provenance)
    same, other = (cascade(paths, Setting(6, g), tmp_path / f"{g}.schedule.json") for g in (3.0, 5.0))
    for file in (same, other):
        kept = file.provenance
        assert (kept.licence, kept.calls_per_evaluation, kept.version, kept.trial, kept.test_reads) == ("CC-BY-4.0", 2, "1", None, 0)
    assert [file.fitted_for.teacher for file in (same, other)] == ["somebody", ""]
    with pytest.raises(CampaignError, match="is there already"):
        cascade(paths, Setting(6, 3.0), tmp_path / "5.schedule.json")


def test_files_without_ratios_or_of_equal_settings_are_refused(files, tmp_path):
    where = process("ve", sigma_max=80.0)
    schedule = preset("ddim", named_grid("karras", where, 4, 80.0, 0.02), where)
    plain = tmp_path / "plain.schedule.json"
    save(compile(schedule), plain, recipe=schedule)
    with pytest.raises(CampaignError, match="no compensation ratios"):
        cascade([*files, str(plain)], Setting(7, 1.0), tmp_path / "out")
    two = preset("dc-solver", named_grid("karras", where, 2, 80.0, 0.02), where, ratios=[1, 1])
    save(compile(two), plain, recipe=two)
    with pytest.raises(CampaignError, match="no compensation ratios"):
        cascade([*files, str(plain)], Setting(7, 1.0), tmp_path / "out")
    with pytest.raises(CampaignError, match="another NFE or guidance"):
        cascade([files[0], files[0]], Setting(7, 1.0), tmp_path / "out")


def test_a_ratio_that_is_not_said_is_one_and_a_single_step_has_none(files, tmp_path):
    where = process("ve", sigma_max=80.0)
    schedule = preset("dc-solver", named_grid("karras", where, 7, 80.0, 0.02), where, ratios=[1.0] * 6 + [0.9])
    steps = (*(msgspec.structs.replace(step, numbers={}) for step in schedule.steps[:-1]), schedule.steps[-1])
    path = tmp_path / "7.schedule.json"
    save(compile(schedule), path, recipe=msgspec.structs.replace(schedule, steps=steps), fitted_for=FittedFor(model="gaussian"))
    assert setting_of(load(path), "")[1] == [1.0] * 4 + [0.9]
    assert cascade([*files, str(path)], Setting(1, 1.0), tmp_path / "1.schedule.json").executable.nfe == 1
