# pyright: basic
"""`FewstepScheduler`: a schedule inside any diffusers pipeline. Its config holds the rows, so that it saves and loads like any scheduler.

    from solvers import load
    from solvers.adapters.diffusers import FewstepScheduler
    from solvers.adapters.scheduler_config import scheduler_config

    pipe.scheduler = FewstepScheduler.from_config(scheduler_config(load("x.schedule.json"), "eps"))
    pipe(prompt, num_inference_steps=pipe.scheduler.nfe)

Assign it after the pipeline is made: some pipelines convert the scheduler they are constructed with. One object serves one
running pipeline. `python -m solvers export --to diffusers` writes this class, with what it needs of `solvers`, as one file.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..errors import ScheduleError
from ..prediction import DIFFUSERS, to_denoised
from ..sample import State, advance, begin
from ..tableau import START, Evaluation, Row, Tableau


class FewstepScheduler(SchedulerMixin, ConfigMixin):
    """Executes the rows of a schedule file.

    rows             as in a schedule file: {"slot", "time", "terms": [[slot, coefficient], ...], "evaluation" or null}
    prediction_type  what the pipeline's network answers: "epsilon", "sample", "v_prediction" or "flow_prediction"
    timestep_scale   the network is told timestep_scale * label (1000 for flow pipelines)
    schedule_id      the sampler's name: the id of the file it comes from
    initial_sigma    `init_noise_sigma`, where that is not the sigma of the first evaluation: a schedule begun behind a first step
                     without the network starts from what that step makes of noise

    `timesteps` has one entry per evaluation, so `num_inference_steps` must be the schedule's own count. Lists that a pipeline
    passes (`sigmas`, `timesteps`, `mu`) are accepted if their length fits, and change nothing: a schedule is a whole.
    """

    order = 1
    _compatibles: list[str] = []  # noqa: RUF012 - the base class' name

    @register_to_config
    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]] = (),
        prediction_type: str = "epsilon",
        timestep_scale: float = 1.0,
        num_train_timesteps: int = 1000,
        schedule_id: str = "",
        initial_sigma: float | None = None,
    ) -> None:
        if prediction_type not in DIFFUSERS:
            raise ScheduleError(f"There is no prediction_type {prediction_type!r}; there are {', '.join(DIFFUSERS)}.")
        self.tableau = Tableau(tuple(_config_row(row) for row in rows), sigma=initial_sigma)
        first = self.tableau.rows[0]
        if first.evaluation is None or dict(first.terms) != {START: 1.0}:
            raise ScheduleError("A pipeline asks its network at x_T, but this schedule changes x_T before its first evaluation.")
        self.set_timesteps()

    @property
    def nfe(self) -> int:
        """Evaluations of the network, and the only `num_inference_steps` there is."""
        return self.tableau.nfe

    @property
    def init_noise_sigma(self) -> float:
        """x_T is this times standard normal noise."""
        return float(self.tableau.initial_sigma)

    @property
    def guidance(self) -> list[float | None]:
        """The guidance scale of every evaluation; None where the schedule does not say. Give the first one to the pipeline's call."""
        return [evaluation.knobs.get("guidance") for evaluation in self.tableau.evals]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Start over. Raises ScheduleError if another number of steps is asked for."""
        for asked in (num_inference_steps, *(len(given) for given in (timesteps, sigmas) if given is not None)):
            if asked not in (None, self.nfe):
                raise ScheduleError(
                    f"This schedule makes exactly {self.nfe} evaluations; pass num_inference_steps={self.nfe}, not {asked}."
                )
        labels = [float(evaluation.label) * self.config["timestep_scale"] for evaluation in self.tableau.evals]
        exact = torch.float32 if torch.device(device or "cpu").type == "mps" else torch.float64
        self.timesteps = torch.tensor(labels, dtype=exact, device=device)
        self.num_inference_steps = self.nfe
        self._state: State | None = None
        self._taken = 0
        self._returned: Tensor | None = None
        self._edited: Tensor | None = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accepts the beginning only."""
        if begin_index:
            raise ScheduleError(
                "A schedule cannot start part-way, as image-to-image with strength below 1 asks; use strength=1.0 or another scheduler."
            )

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The network sees the state itself."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any = None) -> Tensor:
        """alpha x0 + sigma noise at the level of the next evaluation, whatever `timesteps` says: labels need not be unique."""
        _, alpha, sigma = self.tableau.evals[min(self._taken, self.nfe - 1)].at
        return alpha.to(original_samples) * original_samples + sigma.to(original_samples) * noise

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """`add_noise` as flow pipelines call it."""
        return self.add_noise(sample, noise, timestep)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True, **ignored: Any
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take the network's answer at `sample` and return the state of the next evaluation, or the sample. Raises ScheduleError.

        Evaluations are counted, not looked up by `timestep`. A `sample` that is not the one returned last was edited by the
        pipeline (inpainting, a callback) and replaces the state.
        """
        if self._taken == self.nfe:
            raise ScheduleError(f"All {self.nfe} evaluations of this schedule are done; call set_timesteps to start over.")
        if self._state is None:
            noise = {z: randn_tensor(sample.shape, generator, sample.device, sample.dtype) for z in self.tableau.noises}
            self._state, _ = advance(begin(self.tableau, sample, noise or None, self._replace))
        elif sample is not self._returned and not torch.equal(sample, self._returned):  # type: ignore[arg-type]
            self._edited = sample
        working = torch.promote_types(sample.dtype, torch.float32)
        _, alpha, sigma = self.tableau.evals[self._taken].at
        kind = DIFFUSERS[self.config["prediction_type"]]
        denoised = to_denoised(kind, model_output.to(working), sample.to(working), alpha, sigma)
        self._state, request = advance(self._state, denoised)
        self._taken += 1
        self._returned, self._edited = self._state.x if request is None else request.x, None
        return SchedulerOutput(prev_sample=self._returned) if return_dict else (self._returned,)

    def guide(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Per-evaluation guidance: `pipe(..., guidance_scale=s.guidance[0], callback_on_step_end=s.guide)`.

        A pipeline fixes before its loop whether it computes both branches (a scale above 1), so a scale of 1 is passed on as
        the next larger number: the same picture, at the price of the unused branch. Raises ScheduleError below 1.
        """
        scale = self.guidance[step + 1] if step + 1 < self.nfe else None
        if scale is not None:
            if scale < 1:
                raise ScheduleError(f"Evaluation {step + 1} wants guidance {scale:g}, and pipelines only apply scales of at least 1.")
            pipe._guidance_scale = max(scale, math.nextafter(1.0, 2.0)) if pipe.guidance_scale > 1 else scale
        return values

    def _replace(self, row: Row, x: Tensor, denoised: Tensor | None) -> Tensor | None:
        return self._edited if denoised is not None else None


def _config_row(row: Mapping[str, Any]) -> Row:
    try:
        e = row["evaluation"]
        evaluation = e and Evaluation(float(e["label"]), float(e["alpha"]), float(e["sigma"]), dict(e["knobs"]))
        return Row(row["slot"], float(row["time"]), {slot: float(c) for slot, c in row["terms"]}, evaluation)
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"A row of this scheduler's config is damaged: {error!r}.") from None
