"""The file: what is written is read back bit for bit, what was changed is refused in one sentence, and ten lines execute it."""

import contextlib
import copy
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import CASES, EVERYWHERE, Case, anisotropic, sample

from solvers import (
    FittedFor,
    Provenance,
    ScheduleError,
    ScheduleFile,
    Score,
    SolverSchedule,
    Step,
    Tableau,
    compile,
    draw,
    load,
    named_grid,
    preset,
    process,
    save,
)
from solvers.file import MAX_BYTES, parse

CARD = FittedFor(model="digits", model_sha256="ab" * 32, prediction="x0", guidance=1.5, resolution=(1, 32, 32), dtype="float32")
SCORE = Score("rmse", 256, 0.1, 0.09, 0.11, "dpmpp-2m", 0.2, 0.5, 0.45, 0.55)
RECIPE = preset("unipc-2", [80.0, 12.3, 1.7, 0.1], process("ve"))


def whole_file(path: Path, recipe: SolverSchedule = RECIPE, **more: Any) -> ScheduleFile:
    """A file that uses every part of the format."""
    known = {"fitted_for": CARD, "scores": [SCORE], "provenance": Provenance(study="s", trial=3, note="made in a test")}
    return save(compile(recipe), path, recipe=recipe, **{**known, **more})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a whole file."""
    path = tmp_path_factory.mktemp("file") / "x.schedule.json"
    whole_file(path)
    return path.read_bytes()


def assert_refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(ScheduleError, match=match) as error:
        parse(data)
    assert "\n" not in str(error.value)


def refusal(data: bytes) -> tuple[str, ScheduleFile | None]:
    """What `parse` says against the data, or the file."""
    try:
        return "", parse(data)
    except ScheduleError as error:
        return str(error), None


def as_json(document: Any) -> bytes:
    return json.dumps(document, indent=1).encode()


def signed(document: dict) -> bytes:
    """A document with its hashes made right again, by the rule of the module's docstring."""

    def digest(part: Any) -> str:
        return hashlib.sha256(json.dumps(part, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    document["id"] = digest(document["executable"])
    document["digest"] = digest({k: v for k, v in document.items() if k not in ("executable", "digest")})
    return as_json(document)


# -------------------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_file_brings_back_every_bit_of_a_table(name: str, case: Case, tmp_path: Path):
    recipe = preset(name, case.grid(5, clean=True), case.process)
    table = compile(recipe)
    written = whole_file(tmp_path / "x.json", recipe)
    read = load(tmp_path / "x.json")
    assert read == written
    assert read.tableau == table
    assert [[c.hex() for c in row.terms.values()] for row in read.tableau.rows] == [
        [c.hex() for c in row.terms.values()] for row in table.rows
    ]
    assert (read.recipe, read.process, read.fitted_for, read.scores) == (recipe, case.process, CARD, (SCORE,))
    x = draw([1, 2], (12,), "xT")
    assert torch.equal(*(sample(anisotropic(), x, t, noise=[1, 2]) for t in (table, read.tableau)))


def test_a_file_brings_back_noise_labels_and_knobs(tmp_path: Path):
    p = process("vp-linear")
    steps = (Step(to=0.5, label=0.77, eta=0.3, knobs={"guidance": 7.5}), Step(to=0.2, eta=0.4, noise="sde"), Step(to=0.1))
    recipe = SolverSchedule(p, 0.9, steps)
    whole_file(tmp_path / "x.json", recipe)
    read = load(tmp_path / "x.json")
    assert read.tableau == compile(recipe)
    assert read.tableau.noises == ("z0", "z1")
    assert (read.tableau.evals[0].label, read.tableau.evals[0].knobs) == (0.77, {"guidance": 7.5})


def test_a_table_without_a_recipe_needs_only_its_process(tmp_path: Path):
    table = compile(RECIPE)
    save(table, tmp_path / "x.json", process=process("ve"))
    read = load(tmp_path / "x.json")
    assert (read.tableau, read.recipe) == (table, None)
    with pytest.raises(ScheduleError, match="process"):
        save(table, tmp_path / "y.json")


def test_the_same_table_gives_the_same_bytes_and_the_id_outlives_new_scores(tmp_path: Path):
    first = whole_file(tmp_path / "a.json")
    again = whole_file(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    scored = whole_file(tmp_path / "c.json", scores=[], fitted_for=None, provenance=None)
    assert first.id == again.id == scored.id
    assert first.digest == again.digest != scored.digest
    other = whole_file(tmp_path / "d.json", preset("unipc-2", [80.0, 12.4, 1.7, 0.1], process("ve")))
    assert other.id != first.id


def test_the_hashes_are_those_of_the_docstring(text: bytes):
    document = json.loads(text)
    assert signed(copy.deepcopy(document)) == as_json(document)


def test_the_sigmas_of_the_file_are_those_of_its_rows(tmp_path: Path):
    p = process("vp-linear")
    written = whole_file(tmp_path / "x.json", preset("ddim", [0.9, 0.5, 0.1], p))
    assert written.sigmas == tuple(float(p.sigma(t) / p.alpha(t)) for t in (0.9, 0.5, 0.1))


# ------------------------------------------------------------------------------------------------------------------ a consumer


def ten_line_consumer(document: dict, x: float, denoiser, noise) -> list[float]:
    """All that another language has to write: after the docstring of the file format."""
    slots, answers, states = {"xT": x}, 0, []
    for row in document["executable"]["rows"]:
        total = 0.0
        for name, c in row["terms"]:
            total += c * (slots[name] if name in slots else noise(int(name[1:])))
        slots[row["slot"]] = total
        states.append(total)
        if row["evaluation"]:
            slots[f"D{answers}"] = denoiser(total, answers, row["evaluation"])
            answers += 1
    return states


RECIPES = {name: preset(name, CASES["vp-linear"].grid(7, clean=True), CASES["vp-linear"].process) for name in EVERYWHERE} | {
    "flow": preset("unipc-3", CASES["flow"].grid(6, clean=True), CASES["flow"].process),
    "noise": preset("ddim", CASES["vp-discrete"].grid(6, clean=False), CASES["vp-discrete"].process, eta=0.5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_ten_lines_reproduce_the_worked_example(name: str, tmp_path: Path):
    whole_file(tmp_path / "x.json", RECIPES[name])
    document = json.loads((tmp_path / "x.json").read_text())
    states = ten_line_consumer(document, 1.0, lambda x, k, at: x / 2 + (k + 1) / 8, lambda m: (m + 1) / 16)
    golden = document["golden"]["states"]
    assert len(states) == len(golden)
    for ours, theirs in zip(states, golden, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-12)


def test_the_worked_example_tells_two_answers_rows_and_noises_apart(tmp_path: Path):
    whole_file(tmp_path / "x.json", RECIPES["noise"])
    document = json.loads((tmp_path / "x.json").read_text())
    golden = document["golden"]["states"]

    def differs(denoiser, noise) -> bool:
        return ten_line_consumer(document, 1.0, denoiser, noise)[-1] != pytest.approx(golden[-1], rel=1e-9)

    assert differs(lambda x, k, at: x / 2 + (k % 5 + 1) / 8, lambda m: (m + 1) / 16)
    assert differs(lambda x, k, at: x / 2 + (k + 1) / 8, lambda m: (4 - m if m > 2 else m + 1) / 16)


def test_a_consumer_samples_as_we_do(tmp_path: Path):
    whole_file(tmp_path / "x.json", RECIPES["unipc-3"])
    document = json.loads((tmp_path / "x.json").read_text())

    def denoiser(x: float, k: int, at: dict) -> float:
        return 0.3 + at["alpha"] * 0.49 / (at["alpha"] ** 2 * 0.49 + at["sigma"] ** 2) * (x - at["alpha"] * 0.3)

    ours = sample(
        lambda x, at: 0.3 + at.alpha * 0.49 / (at.alpha**2 * 0.49 + at.sigma**2) * (x - at.alpha * 0.3),
        torch.tensor([0.8], dtype=torch.float64),
        load(tmp_path / "x.json").tableau,
    )
    assert ten_line_consumer(document, 0.8, denoiser, None)[-1] == pytest.approx(float(ours), rel=1e-12)


# ---------------------------------------------------------------------------------------------------------------- damaged files


def test_every_truncation_is_refused(text: bytes):
    for length in range(len(text.rstrip())):
        assert_refused(text[:length])


def test_a_flipped_bit_is_refused_unless_it_changes_nothing(text: bytes):
    generator, whole = random.Random(5), parse(text)
    same = 0
    for position in range(len(text)):
        data = bytearray(text)
        data[position] ^= 1 << generator.randrange(8)
        error, file = refusal(bytes(data))
        assert file in (None, whole)  # another spelling of the same float is the same file
        assert "\n" not in error
        same += file is not None
    assert same < 0.01 * len(text)


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path to every value inside a document."""
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


def at(document: Any, path: tuple) -> Any:
    for key in path:
        document = document[key]
    return document


def replaced(document: Any, path: tuple, value: Any) -> Any:
    document = copy.deepcopy(document)
    at(document, path[:-1])[path[-1]] = value
    return document


def test_every_edited_number_and_word_is_refused(text: bytes):
    document = json.loads(text)
    for path in places(document):
        value = at(document, path)
        if isinstance(value, bool | dict | list) or not path:
            continue
        edits = (
            [value + "x", ""]
            if isinstance(value, str) and value
            else [value + 1, value * 2 + 1e-3]
            if isinstance(value, int | float)
            else [7]
        )
        for edit in edits:
            assert_refused(as_json(replaced(document, path, edit)))


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"1.0"', "null", "[]", "0x10", "1_0", "01"])
def test_a_number_that_is_not_a_finite_decimal_is_refused(text: bytes, token: str):
    document = json.loads(text)
    for path in (
        ("executable", "rows", 1, "terms", 0, 1),
        ("executable", "rows", 0, "time"),
        ("golden", "states", 0),
        ("scores", 0, "value"),
    ):
        data = as_json(replaced(document, path, "HERE")).replace(b'"HERE"', token.encode())
        assert_refused(data)


@pytest.mark.parametrize("version", [0, 2, 99, -1, 1.5, "1", None, True, 10**30])
def test_another_version_is_refused(text: bytes, version: Any):
    assert_refused(as_json(replaced(json.loads(text), ("version",), version)))


def test_a_newer_version_is_named_in_the_message(text: bytes):
    assert_refused(as_json(replaced(json.loads(text), ("version",), 2)), "version 2")


@pytest.mark.parametrize("value", ["", "fewstep", "FEWSTEP-SCHEDULE", 3, None])
def test_another_format_is_refused(text: bytes, value: Any):
    assert_refused(as_json(replaced(json.loads(text), ("format",), value)))


def test_an_unknown_key_is_refused_at_every_level(text: bytes):
    document = json.loads(text)
    for path in list(places(document)):
        if isinstance(at(document, path), dict) and (not path or path[-1] not in ("knobs", "numbers")):
            assert_refused(signed(replaced(document, (*path, "surprise"), 1)))


def test_a_missing_key_is_refused_wherever_it_is_needed(text: bytes):
    for key in ("format", "version", "id", "digest", "executable", "golden"):
        document = json.loads(text)
        del document[key]
        assert_refused(as_json(document))


def test_a_repeated_key_is_refused(text: bytes):
    assert_refused(text.replace(b'"nfe":', b'"nfe": 3, "nfe":', 1), "twice")
    assert_refused(text.replace(b'"format":', b'"format": "fewstep-schedule", "format":', 1), "twice")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("executable", "nfe"), 4),
        (("executable", "rows", 1, "terms", 0, 0), "x9"),
        (("executable", "rows", 1, "terms", 1, 0), "x0"),
        (("executable", "rows", 1, "terms"), []),
        (("executable", "rows", 1, "terms", 0, 1), 1e200),
        (("executable", "rows", 1, "terms", 0, 0), "z5"),
        (("executable", "rows", 1, "slot"), "x0"),
        (("executable", "rows", 1, "slot"), "D7"),
        (("executable", "rows", 1, "slot"), "xT"),
        (("executable", "rows", 1, "slot"), "a b"),
        (("executable", "rows", 1, "slot"), "y" * 40),
        (("executable", "rows", 0, "evaluation", "sigma"), 0.0),
        (("executable", "rows", 0, "evaluation", "sigma"), -1.0),
        (("executable", "rows"), []),
        (("executable", "process", "name"), "os.system"),
        (("executable", "process", "sigma_max"), "big"),
        (("executable", "initial_noise"), "sigma"),
        (("executable", "coefficients"), "mask"),
        (("recipe", "start"), -3.0),
        (("recipe", "steps", 0, "to"), 90.0),
        (("recipe", "steps", 0, "order"), 9),
        (("recipe", "steps", 0, "space"), "x1"),
        (("recipe", "steps"), []),
        (("fitted_for", "model"), "a\nb"),
        (("fitted_for", "model"), "a" * 600),
        (("fitted_for", "model_sha256"), "zz"),
    ],
)
def test_an_illegal_file_is_refused_even_with_the_right_hashes(text: bytes, path: tuple, value: Any):
    assert_refused(signed(replaced(json.loads(text), path, value)))


def test_what_is_no_schedule_at_all_is_refused(text: bytes):
    for data in (
        b"",
        b"\0",
        b"null",
        b"3",
        b"[]",
        b"{}",
        b'"x"',
        b"\xff\xfe",
        b"PK\x03\x04",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        text.decode().encode("utf-16"),
    ):
        assert_refused(data)


# -------------------------------------------------------------------------------------------------------------- the file system


def assert_unreadable(path: Any, match: str | None = None) -> None:
    with pytest.raises(ScheduleError, match=match) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_what_is_not_a_regular_small_file_is_refused(tmp_path: Path):
    assert_unreadable(tmp_path / "missing.json", "missing.json")
    assert_unreadable(tmp_path, "not a regular file|cannot be read")
    assert_unreadable(str(tmp_path / "a\0b"))
    os.mkfifo(tmp_path / "fifo")
    assert_unreadable(tmp_path / "fifo", "regular")
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(1 << 34)
    assert_unreadable(tmp_path / "huge", "bytes")
    (tmp_path / "damaged").write_bytes(b"{")
    assert_unreadable(tmp_path / "damaged", "damaged")


def test_a_load_leaves_no_file_open(tmp_path: Path, text: bytes):
    (tmp_path / "good").write_bytes(text)
    (tmp_path / "bad").write_bytes(text[:50])
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else pytest.skip("needs /proc")
    for _ in range(5):
        load(tmp_path / "good")
        for name in ("bad", "fifo", "missing", "."):
            with pytest.raises(ScheduleError):
                load(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before


REFUSED_SAVES = {
    "a recipe that compiles to other rows": lambda: (
        compile(RECIPE),
        {"recipe": preset("unipc-2", [80.0, 12.3001, 1.7, 0.1], process("ve"))},
    ),
    "a recipe of another length": lambda: (compile(RECIPE), {"recipe": preset("ddim", [80.0, 1.0], process("ve"))}),
    "no process": lambda: (compile(RECIPE), {}),
    "a batch of candidates": lambda: (
        compile(RECIPE, times=torch.tensor([[80.0, 12.0, 2.0, 0.1], [80.0, 13.0, 2.0, 0.1]], dtype=torch.float64)),
        {"process": process("ve")},
    ),
    "a score that is not a number": lambda: (compile(RECIPE), {"recipe": RECIPE, "scores": [Score("rmse", 1, float("nan"), 0.0, 1.0)]}),
    "a text that is too long": lambda: (compile(RECIPE), {"recipe": RECIPE, "fitted_for": FittedFor(model="m" * 600)}),
    "a text with control characters": lambda: (compile(RECIPE), {"recipe": RECIPE, "provenance": Provenance(note="a\nb")}),
}


@pytest.mark.parametrize("why", REFUSED_SAVES)
def test_a_refused_save_writes_nothing_and_keeps_the_old_file(why: str, tmp_path: Path):
    table, options = REFUSED_SAVES[why]()
    old = whole_file(tmp_path / "x.json")
    with pytest.raises(ScheduleError):
        save(table, tmp_path / "x.json", **options)
    with pytest.raises(ScheduleError):
        save(table, tmp_path / "new.json", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert load(tmp_path / "x.json") == old


def test_what_save_writes_load_can_read_however_long_the_schedule(tmp_path: Path):
    p = process("ve")
    recipe = preset("ddim", named_grid("karras", p, 1000, 80.0, 0.002), p, eta=0.5)
    refused = None
    try:
        whole_file(tmp_path / "x.json", recipe)
    except ScheduleError as error:
        refused = error
    assert refused is not None or load(tmp_path / "x.json").tableau == compile(recipe)
    rows = compile(RECIPE).rows
    wide = Tableau((*rows[:-1], type(rows[0])(rows[-1].slot, 0.1, {f"z{m}": 1e-3 + 1e-9 * m for m in range(8000)})))
    long = Tableau((*wide.rows, *(type(rows[0])(f"y{k}", 0.1, dict(wide.rows[-1].terms)) for k in range(6))))
    with pytest.raises(ScheduleError):
        save(long, tmp_path / "y.json", process=p)
    assert not (tmp_path / "y.json").exists()
    assert len(json.dumps([[f"z{m}", 1e-3 + 1e-9 * m] for m in range(8000)])) * 7 > MAX_BYTES


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_system_takes_is_refused_in_a_sentence(name: str, tmp_path: Path):
    with pytest.raises(ScheduleError, match="cannot be written"):
        whole_file(tmp_path / name)


def test_a_folder_is_no_file_to_write_and_a_file_no_folder(tmp_path: Path):
    table, taken = compile(preset("ddim", [1.0, 0.5], process("flow"))), tmp_path / "taken"
    taken.write_text("x")
    for path, said in ((tmp_path, "is a folder"), (taken / "a.json", "cannot be written")):
        with pytest.raises(ScheduleError, match=said):
            save(table, path, process=process("flow"))
    assert list(tmp_path.iterdir()) == [taken]


def test_a_device_stays_a_device(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ScheduleError, match="no regular file"):
        whole_file(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_crash_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = whole_file(tmp_path / "x.json")

    def crash(*args: Any) -> None:
        raise KeyboardInterrupt

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, crash)
            with pytest.raises(KeyboardInterrupt):
                whole_file(tmp_path / "x.json", scores=[])
        assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
        assert load(tmp_path / "x.json") == old


# -------------------------------------------------------------------------------------------------------- what it was fitted for


def test_require_refuses_another_model_in_one_sentence_and_says_how_to_insist(tmp_path: Path):
    file = whole_file(tmp_path / "x.json")
    file.require(CARD)
    file.require(
        {"model": "digits", "model_sha256": "ab" * 32, "prediction": "x0", "guidance": 1.5, "resolution": [1, 32, 32], "dtype": "float32"}
    )
    for name, value in (
        ("model", "faces"),
        ("model_sha256", "cd" * 32),
        ("guidance", 7.5),
        ("resolution", (1, 64, 64)),
        ("prediction", "eps"),
    ):
        other = FittedFor(
            **{**{f: getattr(CARD, f) for f in ("model", "model_sha256", "prediction", "guidance", "resolution", "dtype")}, name: value}
        )
        with pytest.raises(ScheduleError, match=f"{name}.*insist=True") as error:
            file.require(other)
        assert "\n" not in str(error.value)
        file.require(other, insist=True)


def test_require_lets_pass_what_the_file_does_not_say(tmp_path: Path):
    whole_file(tmp_path / "a.json", fitted_for=None).require({"model": "anything"})
    whole_file(tmp_path / "b.json", fitted_for=FittedFor(model="digits")).require(CARD)


@pytest.mark.parametrize("card", [{"colour": "red"}, {"guidance": "high"}, {"model": 3}])
def test_require_refuses_a_card_that_is_none(tmp_path: Path, card: dict):
    with pytest.raises(ScheduleError):
        whole_file(tmp_path / "x.json").require(card)


# -------------------------------------------------------------------------------------------------------------- random mutations

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["xT", "x0", "D0", "z0", "z1", "mu", "eps0", "ve", "flow", "multistep"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), resign=st.booleans())
def test_random_mutations_raise_schedule_error_or_leave_a_table_that_runs(data: st.DataObject, resign: bool, text: bytes):
    document = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(document) if p]))
        parent = at(document, path[:-1])
        action = data.draw(st.sampled_from(["replace", "delete", "copy", "scale"]))
        if action == "delete":
            del parent[path[-1]]
        elif action == "copy":
            parent[path[-1]] = copy.deepcopy(at(document, data.draw(st.sampled_from([p for p in places(document) if p]))))
        elif action == "scale" and isinstance(parent[path[-1]], float):
            parent[path[-1]] *= data.draw(st.floats(-10, 10))
        else:
            parent[path[-1]] = data.draw(VALUES)
    error, file = refusal(signed(document) if resign and "executable" in document else as_json(document))
    assert "\n" not in error
    if file is not None:
        noise = [torch.zeros(1, 1) for _ in file.tableau.noises]
        with contextlib.suppress(ScheduleError):  # not finite in float32
            assert sample(lambda x, at, **knobs: x / 2, torch.ones(1, 1), file.tableau, noise=noise or None).shape == (1, 1)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_raise_schedule_error(data: bytes):
    assert_refused(data)
