"""The S3 sampler on ordinary Optuna studies: deterministic, at home in any space, and worth its predictor."""

import math
import statistics

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.encoding import Encoding
from search.predictor import Points, Predictor, backwards
from search.ranks import ranked
from search.s3 import FORESEEN, UNFILTERED, S3Sampler

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {
    "gap1": FloatDistribution(0.0, 1.0),
    "gap2": FloatDistribution(1e-4, 1.0, log=True),
    "order1": IntDistribution(1, 4),
    "space1": CategoricalDistribution(("x0", "eps", "flow")),
    "space2": CategoricalDistribution((1, 2, 3)),
}


def bowl(params: dict) -> float:
    """Smooth in the numbers, with one right word at each step."""
    numbers = (params["gap1"] - 0.3) ** 2 + 0.1 * (math.log10(params["gap2"]) + 2) ** 2 + 0.05 * (params["order1"] - 3) ** 2
    return 0.01 + numbers + 0.2 * (params["space1"] != "eps") + 0.1 * (params["space2"] != 2)


def optimised(sampler: optuna.samplers.BaseSampler, trials: int = 60, direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    sign = 1 if direction == "minimize" else -1
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, sign * bowl(trial.params))
    return study


def test_encoding_a_point_and_decoding_it_gives_the_parameters_back():
    study, encoding = optimised(optuna.samplers.RandomSampler(seed=1), 20), Encoding(SPACE)
    points = encoding.points([t.params for t in study.trials])
    assert points.numbers.min() >= 0
    assert points.numbers.max() <= 1
    for trial, numbers, words in zip(study.trials, points.numbers, points.words, strict=True):
        assert encoding.params(numbers, words) == pytest.approx(trial.params)


def test_the_same_seed_proposes_the_same_trials_and_another_seed_others():
    one, two, other = (optimised(S3Sampler(seed=s), 40) for s in (3, 3, 4))
    assert [t.params for t in one.trials] == [t.params for t in two.trials]
    assert [t.params for t in one.trials] != [t.params for t in other.trials]


def test_a_proposal_depends_on_its_number_and_the_finished_trials_alone():
    study = optimised(S3Sampler(seed=3), 40)
    resumed = optuna.create_study(sampler=S3Sampler(seed=3))
    resumed.add_trials(study.trials)
    assert resumed.ask(SPACE).params == study.ask(SPACE).params


def test_maximising_is_minimising_the_negative():
    down, up = optimised(S3Sampler(seed=5), 40), optimised(S3Sampler(seed=5), 40, "maximize")
    assert [t.params for t in down.trials] == [t.params for t in up.trials]


def test_it_needs_a_fraction_of_the_trials_that_random_search_needs():
    reached = []
    for seed in range(5):
        goal = optimised(optuna.samplers.RandomSampler(seed=seed), 200).best_value
        trials = optimised(S3Sampler(seed=seed), 60).trials
        reached.append(next((t.number + 1 for t in trials if t.value <= goal), 10**6))
    assert statistics.median(reached) <= 50


def test_the_predictor_ranks_points_it_has_not_seen():
    rng = np.random.default_rng(0)
    encoding = Encoding(SPACE)
    points = Points(rng.random((120, 3)), rng.integers(0, 3, (120, 2)))
    values = np.array([bowl(encoding.params(x, w)) for x, w in zip(points.numbers, points.words, strict=True)])
    found = Predictor.fit(points[slice(80)], values[:80])
    mean, spread = found.predict(points[slice(80, 120)])
    order, true = np.argsort(np.argsort(mean)), np.argsort(np.argsort(values[80:]))
    assert np.corrcoef(order, true)[0, 1] > 0.7
    near, far = found.predict(points[slice(0, 1)])[1], spread.max()
    assert near < far


def test_a_study_whose_space_has_nothing_to_choose_is_left_alone():
    study = optuna.create_study(sampler=S3Sampler(seed=0, startup=2))
    for _ in range(5):
        trial = study.ask({"order1": CategoricalDistribution((2,))})
        study.tell(trial, 1.0)
    assert {t.params["order1"] for t in study.trials} == {2}


def test_on_a_bent_surface_the_predictor_ranks_what_comes_next_better_than_a_straight_line():
    study = optimised(optuna.samplers.RandomSampler(seed=2), 160)
    found = ranked(study.trials, SPACE)
    assert [r.seen for r in found] == [40, 80, 120]
    assert found[-1].taus["parameters"] > 0.5
    assert found[-1].taus["parameters"] > found[-1].taus["linear"]
    assert ranked(study.trials[:30], SPACE) == []


def test_a_predictor_that_ranks_backwards_is_told_from_one_that_ranks_at_random():
    rng = np.random.default_rng(0)
    points = Points(rng.random((120, 2)), np.zeros((120, 0), dtype=np.int64))
    values = 1 + points.numbers[:, 0]
    turned = np.concatenate([values[:80], 3 - values[80:]])
    assert backwards(points, turned, 0.002)
    assert not backwards(points, values, 0.002)
    assert not backwards(points[slice(60)], turned[60:], 0.002)  # too few
    assert not backwards(points, turned, 0.0)
    random = [backwards(points, np.concatenate([values[:80], rng.random(40) + 1]), 0.05) for _ in range(40)]
    assert sum(random) <= 6


def test_where_the_predictor_abstains_proposals_come_unfiltered_and_say_so(monkeypatch):
    study = optimised(S3Sampler(seed=3), 60)
    assert not any(UNFILTERED in t.system_attrs for t in study.trials)
    later = optuna.create_study(sampler=S3Sampler(seed=3))
    later.add_trials(study.trials)
    filtered = study.ask(SPACE).params
    monkeypatch.setattr("search.s3.backwards", lambda *told: True)
    trial = later.ask(SPACE)
    assert later.trials[trial.number].system_attrs == {UNFILTERED: True}
    assert trial.params != filtered


def test_guests_breed_beside_the_best_trials():
    study = optuna.create_study()
    far = random_far(20)
    study.add_trials([optuna.trial.create_trial(params=p, distributions=SPACE, value=bowl(p)) for p in far])
    shares = []
    for guests in ([], [far[0] | {"gap1": 0.1}]):
        study.set_user_attr("guests", guests)
        proposed = []
        for seed in range(200):
            study.sampler = S3Sampler(seed=seed, pool=1)
            proposed.append(study.ask(SPACE).params["gap1"])
        shares.append(np.mean([gap < 0.4 for gap in proposed]))
    assert shares[0] < 0.03
    assert 0.05 < shares[1] < 0.25  # one proposal in eight


def random_far(count: int) -> list[dict]:
    study = optimised(optuna.samplers.RandomSampler(seed=3), count)
    return [trial.params | {"gap1": 0.7 + 0.3 * trial.params["gap1"]} for trial in study.trials]


def test_with_features_a_shortlist_is_described_for_every_proposal_and_chosen_from():
    """Two numbers that only matter together: their product is what the values depend on, and the feature says so."""
    space = {f"u{k}": FloatDistribution(0.0, 1.0) for k in range(8)}

    def product(params):
        return float(np.prod([0.5 + params[f"u{k}"] for k in range(8)]))

    asked = []

    def describe(params):
        asked.append(params)
        return (product(params),)

    def best(sampler):
        study = optuna.create_study(sampler=sampler)
        for _ in range(40):
            trial = study.ask(space)
            study.tell(trial, 0.01 + abs(product(trial.params) - 1.3))
        return study.best_value

    blind = [best(S3Sampler(seed=seed, shortlist=10)) for seed in range(5)]
    assert not asked
    told = [best(S3Sampler(seed=seed, shortlist=10, describe=describe)) for seed in range(5)]
    assert statistics.median(told) < statistics.median(blind)
    assert 0 < len(asked) <= 5 * 24 * (10 + 40)  # a shortlist for every proposal, and what was finished before
    asked.clear()
    best(S3Sampler(seed=0, pool=1, describe=describe))
    assert not asked


def test_with_features_the_ranks_of_a_campaign_show_both_predictors():
    study = optimised(optuna.samplers.RandomSampler(seed=2), 120)
    found = ranked(study.trials, SPACE, lambda params: (bowl(params),))
    assert list(found[-1].taus) == ["features", "parameters", "linear", "boosting"]
    assert found[-1].taus["features"] > 0.8
    assert found[-1].taus["boosting"] > 0.6


def cases(params: dict) -> np.ndarray:
    """The bowl on five cases whose mean it is."""
    return bowl(params) * np.array([0.5, 0.75, 1.0, 1.25, 1.5])


def foreseeing(seed: int, foresee, trials: int = 30, **options) -> optuna.Study:
    study = optuna.create_study(sampler=S3Sampler(seed=seed, foresee=foresee, imagined=32, **options))
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, bowl(trial.params))
    return study


def test_what_is_foreseen_spares_most_trials():
    space = {f"u{k}": FloatDistribution(0.0, 1.0) for k in range(10)}

    def far(params):
        return 0.01 + sum((params[f"u{k}"] - 0.07 * k) ** 2 for k in range(10))

    def best(trials, **told):
        study = optuna.create_study(sampler=S3Sampler(**told))
        for _ in range(trials):
            trial = study.ask(space)
            study.tell(trial, far(trial.params))
        return study.best_value

    blind = [best(60, seed=seed) for seed in range(3)]
    seeing = [best(24, seed=seed, foresee=lambda many: np.array([[far(params)] for params in many])) for seed in range(3)]
    assert statistics.median(seeing) < statistics.median(blind)


def test_what_was_foreseen_of_a_trial_is_written_down_and_no_trial_is_proposed_twice():
    study = foreseeing(1, lambda many: np.array([cases(p) for p in many]))
    foreseen = [t for t in study.trials if FORESEEN in t.system_attrs]
    assert len(foreseen) == 14
    assert [t.system_attrs[FORESEEN] for t in foreseen] == pytest.approx([t.value for t in foreseen])
    params = [tuple(sorted(t.params.items(), key=str)) for t in study.trials]
    assert len(set(params)) == len(params)
    again = foreseeing(1, lambda many: np.array([cases(p) for p in many]))
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


def test_proposals_of_one_generation_weigh_the_cases_differently():
    """Two cases that want opposite ends: the mean wants the middle, and so would all proposals that weigh both alike."""
    space = {"u1": FloatDistribution(0.0, 1.0)}

    def opposed(many):
        return np.array([[p["u1"] ** 2, (1 - p["u1"]) ** 2] for p in many])

    study = optuna.create_study(sampler=S3Sampler(seed=2, foresee=opposed, startup=1))
    study.tell(study.ask(space), 0.5)
    asked = [study.ask(space).params["u1"] for _ in range(24)]
    assert min(asked) < 0.3
    assert max(asked) > 0.7


def test_what_is_foreseen_of_a_score_is_maximised_where_the_study_is():
    def best(**told):
        study = optuna.create_study(sampler=S3Sampler(seed=1, **told), direction="maximize")
        for _ in range(24):
            trial = study.ask(SPACE)
            study.tell(trial, -bowl(trial.params))
        return study.best_value

    assert best(foresee=lambda many: -np.array([cases(p) for p in many])) > best()


@pytest.mark.parametrize("options", [{"pool": "8"}, {"rounds": -1}, {"rounds": 1.5}, {"imagined": 0}])
def test_options_that_are_no_whole_numbers_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a whole number"):
        S3Sampler(**options)


def test_who_foresees_backwards_is_left_out_for_once_and_asked_again():
    def wrong(many):
        return np.array([1 / cases(p) for p in many])

    ends, believed = [], []
    for seed in range(5):
        study = foreseeing(seed, wrong, 90)
        foreseen = [FORESEEN in t.system_attrs for t in study.trials]
        assert all(foreseen[16:56])
        assert not foreseen[56]
        assert any(foreseen[57:])
        ends.append(study.best_value)
        believed.append(foreseeing(seed, wrong, 90, doubt=0.0).best_value)  # never left out
    assert all(end <= other for end, other in zip(ends, believed, strict=True))
    assert statistics.median(ends) < 0.7 * statistics.median(believed)


def test_candidates_of_which_nothing_can_be_foreseen_are_not_proposed():
    def partly(many):
        return np.array([cases(p) if p["space1"] != "eps" else np.full(5, np.nan) for p in many])

    study = foreseeing(4, partly)
    assert {t.params["space1"] for t in study.trials[16:]} <= {"x0", "flow"}


def test_the_ranks_of_a_campaign_show_what_was_foreseen():
    study = foreseeing(5, lambda many: np.array([cases(p) for p in many]), 100)
    found = ranked(study.trials, SPACE)
    assert [next(iter(r.taus)) for r in found] == ["emulator"]
    assert found[0].taus["emulator"] > 0.9


def test_steps_of_floats_are_kept():
    study = optuna.create_study(sampler=S3Sampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", 0.0, 1.0, step=0.1) - 0.3) ** 2 + (t.suggest_float("y", 0.0, 1.0) - 0.7) ** 2, 60)
    late = [t.params["x"] for t in study.trials[40:]]
    assert statistics.median(abs(x - 0.3) for x in late) < 0.15
    assert all(x == pytest.approx(round(10 * x) / 10) for x in late)


@pytest.mark.parametrize("penalty", [1e3, 1e300, math.inf])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_few_hopeless_values_do_not_hide_which_of_the_others_are_good(penalty, direction):
    sign, gaps = 1.0 if direction == "minimize" else -1.0, []

    def objective(trial):
        x = np.array([trial.suggest_float(f"x{i}", -1.0, 1.0) for i in range(4)])
        return sign * (penalty if x[0] > 0.9 else float(((x - 0.2) ** 2).sum()) - 10.0)

    for seed in range(3):
        study = optuna.create_study(sampler=S3Sampler(seed=seed, pool=256), direction=direction)
        study.optimize(objective, 60)
        gaps.append(sign * study.best_value + 10.0)
    assert statistics.median(gaps) < 0.05


def test_a_study_taken_up_in_another_process_does_not_repeat_its_random_trials():
    study = optuna.create_study(sampler=S3Sampler(seed=0))
    for _ in range(2):
        study.sampler = S3Sampler(seed=0)
        study.optimize(lambda t: t.suggest_float("x", 0.0, 1.0), 4)
    assert len({t.params["x"] for t in study.trials}) == 8


def test_what_is_foreseen_is_not_proposed_again_beside_a_parameter_that_never_changes():
    study = optuna.create_study(
        sampler=S3Sampler(seed=0, startup=4, foresee=lambda many: np.array([[p["order"] + 0.1 * p["k"]] for p in many]))
    )

    def objective(trial):
        trial.suggest_categorical("one", ["only"])
        return trial.suggest_int("order", 1, 3) + 0.1 * trial.suggest_int("k", 1, 7)

    study.optimize(objective, 15)
    foreseen = [(t.params["order"], t.params["k"]) for t in study.trials if FORESEEN in t.system_attrs]
    assert len(set(foreseen)) == len(foreseen) > 8
