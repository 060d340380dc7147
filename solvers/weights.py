"""Steps with coefficients of their own, as learning leaves them (BNS: Shaul et al. 2024; GS: Oganov et al. 2025).

    x_t = state keep x_s + gain sum_k weight_k D_{i-k},      keep = sigma_t / sigma_s,  gain = alpha_t - keep alpha_s

with D_i the newest answer and D_{i-k} that of k steps before. Without numbers it is the first-order step; where state = 1 and the
weights sum to 1 it is exact if all data is one point. The numbers are relative to keep and gain, so that times may move, and the
process change, and they still mean the same. `weighted.py` finds them for a table.
"""

from .build import Builder, Form, add
from .errors import ScheduleError
from .family import Family, Method
from .quadrature import transfer

MOST = 64  # answers that a step can weigh


def rows(builder: Builder, i: int) -> None:
    """Step i."""
    numbers, past = builder.steps[i].numbers, builder.history[::-1]
    lost = [k for k in range(len(past), MOST) if numbers[f"weight{k}"]]
    if lost:
        raise ScheduleError(f"Step {i} weighs the answer of {lost[0]} steps before, but there are only {len(past)} answers.")
    builder.keep(i)
    keep, gain = transfer("x0", builder.nodes[i], builder.nodes[i + 1])
    form: Form = {builder.state: builder.number(i, "state") * keep}
    for k, answer in enumerate(past[:MOST]):
        add(form, gain * builder.number(i, f"weight{k}"), builder.output(answer, "x0"))
    builder.arrive(i + 1, form)


NUMBERS = {"state": 1.0, "weight0": 1.0} | {f"weight{k}": 0.0 for k in range(1, MOST)}
FAMILY = Family(methods={"weights": Method(rows, numbers=NUMBERS)}, presets={})
