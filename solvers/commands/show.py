"""`show FILE`: the steps drawn, and what the sampler does in words."""

import math

from ..base_process import name_of
from ..records import ScheduleFile
from ..schedule import Step
from .compatibility import compatibility

WIDTH = 48


def show(file: ScheduleFile) -> list[str]:
    """The file in lines: what it is for, its steps on a line of log sigma, what each does, its scores, and who can run it."""
    process, fitted = file.process, file.fitted_for
    lines = [f"{file.executable.nfe} evaluations on process {name_of(process)}, id {file.id[:16]}"]
    if fitted is not None:
        guidance = "" if fitted.guidance is None else f", guidance {fitted.guidance:g}"
        lines.append(f"fitted for {fitted.model or 'an unnamed model'}{guidance}; teacher {fitted.teacher or 'not said'}")
    lines += [summary(file), *draw_steps(file)]
    if file.recipe is not None:
        for i, (time, step) in enumerate(zip(file.recipe.times, file.recipe.steps, strict=False)):
            told = "" if step.label is None else f", the network told {step.label:.5g}"
            lines.append(f"  step {i}: {time:.5g} -> {step.to:.5g}   {in_words(step)}{told}")
    else:
        lines += [f"  row {row.slot}: {' + '.join(_term(slot, c) for slot, c in row.terms)}" for row in file.executable.rows]
    if file.executable.coefficients != "scalar":
        lines.append(f"[...] is {file.executable.coefficients.words}")
    for score in file.scores:
        ratio = "" if score.ratio is None else f", {score.ratio:.3f} of {score.baseline}"
        if ratio and score.ratio_low is not None and score.ratio_high is not None:
            ratio += f" ({score.ratio_low:.3f} to {score.ratio_high:.3f})"
        lines.append(f"{score.metric} {score.value:.4g} ({score.low:.4g} to {score.high:.4g}) on {score.seeds} test seeds{ratio}")
    return [*lines, *(f"{backend}: {said}" for backend, said in compatibility(file).items())]


def summary(file: ScheduleFile) -> str:
    """One sentence on the whole sampler."""
    table, process, count = file.tableau, file.process, file.executable.nfe
    told = sum(e.label != t for e, t in zip(table.evals, table.asked, strict=True))
    words = _of_recipe(file)
    words += [f"{told} of {count} evaluations tell the network another time than the state's"] if told else []
    words += [f"noise is injected ({', '.join(table.noises)})"] if table.noises else ["no noise is injected"]
    words += [f"knobs: {', '.join(sorted(table.knobs))}"] if table.knobs else []
    end = float(table.rows[-1].time)
    words += ["it ends on clean data" if end == process.t_clean else f"it ends with noise of sigma {float(process.sigma(end)):.3g} left"]
    return "; ".join(words)


def _of_recipe(file: ScheduleFile) -> list[str]:
    if file.recipe is None:
        return ["its rows have no recipe"]
    steps = file.recipe.steps
    if {step.method for step in steps} == {"weights"}:
        return ["steps with coefficients of their own"]
    orders, spaces = sorted({step.order for step in steps}), sorted({step.space for step in steps})
    of = f"order {orders[0]}" if len(orders) == 1 else f"orders {orders[0]} to {orders[-1]}"
    corrected = sum(step.corrector > 0 for step in steps)
    methods = sorted({step.method for step in steps})
    return [f"{' and '.join(methods)} of {of} in {' and '.join(spaces)}", *([f"{corrected} steps are corrected"] if corrected else [])]


def draw_steps(file: ScheduleFile) -> list[str]:
    """Two rulers from noise (left) to data: where the states are evaluated (o), and which times the network is told (^)."""
    states = [_log_sigma(file, time) for time in file.tableau.asked]
    labels = [_log_sigma(file, float(asked.label)) for asked in file.tableau.evals]
    high, low = max([*states, *labels], default=0.0), min([*states, *labels], default=0.0)
    span = (high - low) or 1.0

    def ruler(values: list[float], mark: str, empty: str) -> str:
        cells = [empty] * (WIDTH + 1)
        for value in values:
            cells[round((high - value) / span * WIDTH)] = mark
        return "".join(cells)

    told = [] if states == labels else [f"  told  {ruler(labels, '^', ' ')}"]
    return [f"  noise {ruler(states, 'o', '-')} data, on log sigma {math.exp(high):.4g} to {math.exp(low):.4g}", *told]


def in_words(step: Step) -> str:
    """What a step does, but not where it goes and what time the network is told."""
    name = f"order {step.order}" if step.method == "multistep" else step.method
    words = [name] if name == "weights" else [f"{name} in {step.space}"]
    words += [f"over {step.domain}"] if step.order > 1 or step.corrector or step.method not in ("multistep", "weights") else []
    words += [f"{step.moment} weights"] if step.moment != "exact" else []
    words += [f"corrected with {step.corrector}"] if step.corrector else []
    words += [f"relaxed by {step.relax:.3g}"] if step.relax != 1 else []
    words += [f"answer {step.answer}"] if step.answer != "network" else []
    words += [f"{step.noise} noise, eta {step.eta:.3g}"] if step.eta else []
    return ", ".join([*words, *(f"{name} {value:.3g}" for name, value in (step.numbers | step.knobs).items())])


def _term(slot: str, coefficient: float | str) -> str:
    return f"[...] {slot}" if isinstance(coefficient, str) else f"{coefficient:.5g} {slot}"


def _log_sigma(file: ScheduleFile, time: float) -> float:
    """Log of sigma / alpha, kept finite where a flow starts from pure noise."""
    sigma = float(file.process.sigma(time)) / max(float(file.process.alpha(time)), 1e-3)
    return math.log(max(sigma, 1e-6))
