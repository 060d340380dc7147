"""S3: evolution that asks a predictor before it spends an evaluation. An ordinary Optuna sampler, for any study.

For every proposal a pool of children is bred from the best trials (search.breeding); then the predictor's optimistic best of the
pool is proposed (Liu et al. 2023, USF, section 4.2, has the loop; the predictor here learns from every trial of the study). Where it is
told what parameters do, the predictor of the parameters makes a shortlist, and one of their features chooses from that. Where it can
foresee what candidates will do case by case, it breeds for some rounds from what it imagines, and every proposal is the best of
that for cases of its own, drawn with replacement (a Bayesian bootstrap: Rubin 1981).

Guests are parents that nobody has scored: what another study found, made to fit this one (a schedule of another budget with
a step inserted or deleted: search.moves), bred from in one proposal of eight. They are the parameter sets in the study's user
attribute "guests", if it has one.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from search.breeding import apart, bred
from search.encoding import Encoding
from search.predictor import AHEAD, Array, Points, Predictor, Scale, backwards, misleads

Describe = Callable[[Mapping[str, Any]], Sequence[float]]
Foresee = Callable[[Sequence[Mapping[str, Any]]], Array]
UNFILTERED, FORESEEN = "s3:unfiltered", "s3:foreseen"

OPTIMISM = 1.5  # standard deviations below the mean that a proposal is judged by, at most
GUESTS = 0.125  # of the proposals are children of guests, where there are guests


@dataclass(frozen=True)
class _Predictors:
    """What children will probably score, by their parameters and by their features."""

    parameters: Predictor
    features: Predictor | None = None
    scale: Scale | None = None


@dataclass(frozen=True)
class _Learnt:
    """What so many trials teach: whom to breed from, and what to expect (None: nobody is asked), or whom to choose from at once."""

    trials: int
    encoding: Encoding
    parents: Points
    predictors: _Predictors | None
    imagined: tuple[list[dict[str, Any]], Array] | None = None


class S3Sampler(BaseSampler):
    """Predictor-guided evolution. One objective, minimised or maximised.

    seed     proposals depend on it, the trial's number and the finished trials alone
    startup  random trials before there is anything to breed from; who foresees learns much from them too
    parents  the best so many trials breed
    pool     children bred for every proposal; 1 is evolution without a predictor
    memory   the best so many trials are what the predictor is told
    doubt    the predictor abstains, and the first child is proposed, where at this level it is shown to rank backwards; 0: never
    describe   from parameters to features, numbers that say what they do (search.features): a predictor learns more from those
    shortlist  the children that are described for every proposal: those whose parameters look best
    foresee    from parameter sets to what each would score on every case [sets, cases], of which the mean counts
    rounds     of breeding from what is foreseen, before a generation is proposed; 0: nothing is foreseen
    imagined   children in each of them
    """

    def __init__(
        self,
        seed: int | None = None,
        startup: int = 16,
        parents: int = 16,
        pool: int = 1024,
        memory: int = 400,
        doubt: float = 0.002,
        describe: Describe | None = None,
        shortlist: int = 40,
        foresee: Foresee | None = None,
        rounds: int = 3,
        imagined: int = 256,
    ) -> None:
        counts = {"startup": startup, "parents": parents, "pool": pool, "memory": memory, "shortlist": shortlist, "imagined": imagined}
        for name, count in {**counts, "rounds": rounds}.items():
            if not isinstance(count, int) or count < (name != "rounds"):  # pyright: ignore[reportUnnecessaryIsInstance] (a setting)
                raise ValueError(f"{name} must be a whole number{'' if name == 'rounds' else ' of at least 1'}, not {count!r}")
        if not isinstance(doubt, int | float) or not 0 <= doubt <= 1:  # pyright: ignore[reportUnnecessaryIsInstance] (a setting)
            raise ValueError(f"doubt must be a level from 0 to 1, not {doubt!r}")
        self._seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._startup, self._parents, self._pool, self._memory, self._doubt = startup, parents, pool, memory, doubt
        self._describe, self._shortlist = describe, shortlist
        self.imagines = pool > 1 and rounds > 0  # whether it asks whoever can foresee
        self._foresee, self._rounds, self._imagined = foresee if self.imagines else None, rounds, imagined
        self._learnt: _Learnt | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What all finished trials share."""
        space = optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))
        return {name: d for name, d in space.items() if not d.single()}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A child of the best trials, or nothing while there are too few."""
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done = [t for t in done if all(name in t.params for name in search_space)]
        if not search_space or len(done) < self._startup:
            return {}
        rng = np.random.default_rng([self._seed, trial.number])
        learnt = self._learn(done, sign, Encoding(search_space), study.user_attrs.get("guests", ()))
        if learnt.imagined:
            return self._preferred(study, trial, rng, *learnt.imagined)
        guests = learnt.encoding.points(study.user_attrs.get("guests", ()))
        if len(guests.numbers) and rng.random() < GUESTS:
            children = bred(rng, guests, learnt.parents, learnt.encoding, self._pool)
        else:
            children = bred(rng, learnt.parents, learnt.parents, learnt.encoding, self._pool)
        chosen = 0
        if learnt.predictors:
            chosen = self._chosen(children, learnt.predictors, learnt.encoding, rng.uniform(0.0, OPTIMISM))
        elif self._pool > 1:
            study._storage.set_trial_system_attr(trial._trial_id, UNFILTERED, True)  # where Optuna's own samplers leave their notes
        return learnt.encoding.params(children.numbers[chosen], children.words[chosen])

    def _preferred(
        self, study: optuna.Study, trial: FrozenTrial, rng: np.random.Generator, candidates: list[dict[str, Any]], cases: Array
    ) -> dict[str, Any]:
        """The candidate that looks best with cases weighted at random, if it is no trial yet."""
        weighted = cases @ rng.exponential(size=cases.shape[1])
        known = [{name: t.params.get(name) for name in candidates[0]} for t in study.get_trials(deepcopy=False)]
        order = np.argsort(weighted, kind="stable")
        chosen = next((k for k in order if candidates[k] not in known), order[0])
        if np.isfinite(cases[chosen]).all():
            study._storage.set_trial_system_attr(trial._trial_id, FORESEEN, float(cases[chosen].mean()))
        return candidates[chosen]

    def _chosen(self, children: Points, predictors: _Predictors, encoding: Encoding, deviations: float) -> int:
        """The child that looks best, so many deviations below the mean."""
        order = np.argsort(predictors.parameters.optimistic(children, deviations), kind="stable")
        if self._describe is None or predictors.features is None or predictors.scale is None:
            return int(order[0])
        shortlist = order[: self._shortlist]
        known = np.array([self._describe(encoding.params(children.numbers[k], children.words[k])) for k in shortlist])
        return int(shortlist[np.argmin(predictors.features.optimistic(predictors.scale.points(known), deviations))])

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """At random, by the seed, the trial's number and the parameter."""
        seed = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(param_name.encode())])
        random = RandomSampler(seed=int(seed.generate_state(1)[0]))
        return random.sample_independent(study, trial, param_name, param_distribution)

    def _learn(self, done: list[FrozenTrial], sign: float, encoding: Encoding, guests: Sequence[Mapping[str, Any]]) -> "_Learnt":
        """What the finished trials teach; kept until there are more, so that a generation is proposed from one lesson."""
        if self._learnt is None or (self._learnt.trials, self._learnt.encoding.distributions) != (len(done), encoding.distributions):
            points, found = encoding.points([t.params for t in done]), sign * np.array([t.value for t in done], dtype=np.float64)
            best, values = np.argsort(found, kind="stable")[: self._memory], _positive(found)
            parents = apart(points[best], self._parents)
            if self._foresee and not self._misled(done, sign):
                imagined = self._imagine(self._foresee, sign, parents, encoding.points(guests), encoding, len(done))
                self._learnt = _Learnt(len(done), encoding, parents, None, imagined)
            else:
                self._learnt = _Learnt(len(done), encoding, parents, self._predictors(done, points, values, best))
        return self._learnt

    def _misled(self, done: list[FrozenTrial], sign: float) -> bool:
        """Whether what was foreseen of the last trials is shown to order them backwards."""
        last = [t for t in done[-AHEAD:] if FORESEEN in t.system_attrs]  # fewer where it was not asked lately: then it is asked again
        foreseen, found = ([t.system_attrs[FORESEEN] for t in last], [sign * (t.value or 0.0) for t in last])
        return len(last) == AHEAD and misleads(np.array(foreseen), np.array(found), self._doubt)

    def _imagine(
        self, foresee: Foresee, sign: float, parents: Points, guests: Points, encoding: Encoding, trials: int
    ) -> tuple[list[dict[str, Any]], Array]:
        """Rounds of children, each bred from the best so far, and what is foreseen of all of them (times sign: the lower the better)."""
        rng = np.random.default_rng([self._seed, trials, 1])  # another stream than a trial's
        candidates: list[dict[str, Any]] = []
        cases: list[Array] = []
        for _ in range(self._rounds):
            children = bred(rng, parents, parents, encoding, self._imagined)
            if not candidates and len(guests.numbers):
                children += bred(rng, guests, parents, encoding, max(1, int(GUESTS * self._imagined)))
            made = [encoding.params(numbers, words) for numbers, words in zip(children.numbers, children.words, strict=True)]
            candidates += made
            cases.append(np.nan_to_num(sign * foresee(made), nan=np.inf, posinf=np.inf))
            best = np.argsort(np.concatenate(cases).mean(1), kind="stable")[: 4 * self._parents]
            parents = apart(encoding.points([candidates[k] for k in best]), self._parents)
        return candidates, np.concatenate(cases)

    def _predictors(self, done: list[FrozenTrial], points: Points, values: Array, best: NDArray[np.int64]) -> _Predictors | None:
        """The predictors; None where one child is bred, or one of the predictors is shown to rank backwards."""
        if self._pool == 1:
            return None
        last = slice(-self._memory, None)
        if backwards(points[last], values[last], self._doubt):
            return None
        parameters = Predictor.fit(points[best], values[best])
        if self._describe is None:
            return _Predictors(parameters)
        known = np.array([self._describe(trial.params) for trial in done])
        earlier = slice(max(1, len(done) - AHEAD))
        if backwards(Scale.of(known[earlier], values[earlier]).points(known)[last], values[last], self._doubt):
            return None
        scale = Scale.of(known, values)
        return _Predictors(parameters, Predictor.fit(scale.points(known)[best], values[best]), scale)


def _positive(values: Array) -> Array:
    """In the same order and above zero, so that logarithms may be taken; what is far worse than most is as bad as four times the median.

    Errors, which are positive and finite, are left as they are.
    """
    if (values > 0).all() and np.isfinite(values).all():
        return values
    finite = values[np.isfinite(values)]
    low, median, high = (finite.min(), np.median(finite), finite.max()) if len(finite) else (0.0, 0.0, 0.0)
    cap = min(high, low + 4 * (median - low)) if median > low else high
    capped = np.nan_to_num(values, nan=cap, posinf=cap, neginf=low).clip(low, cap)
    return np.exp((capped - low) / (capped.std() or 1.0))
