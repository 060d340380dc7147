"""What a network outputs, and the data prediction D = E[x0 | x] that everything here works with.

At a point x = alpha x0 + sigma eps a network may answer eps, x0, v = alpha eps - sigma x0 (VP) or the flow velocity
eps - x0. Each is linear in (x, D), so with f the network's answer

    eps:   D = (x - sigma f) / alpha           v:    D = (alpha x - sigma f) / (alpha^2 + sigma^2)
    x0:    D = f                               flow: D = (x - sigma f) / (alpha + sigma)

On a mean-reverting process x - mu and D - mu stand for x and D. alpha and sigma are those of the *state* x, also when the
network is asked with the label of another time.
Salimans and Ho 2022 (v); Liu et al. 2022 (flow).
"""

from typing import Literal, get_args

from torch import Tensor

from .errors import ScheduleError

Prediction = Literal["eps", "x0", "v", "flow"]
DIFFUSERS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}


def check(prediction: str) -> None:
    """Raise ScheduleError unless `prediction` is one of the four words."""
    if prediction not in get_args(Prediction):
        raise ScheduleError(f"There is no prediction {prediction!r}; there are {', '.join(get_args(Prediction))}.")


def to_denoised(prediction: Prediction, f: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, mu: Tensor | None = None) -> Tensor:
    """D from the network's answer f. Shapes: f and x alike; alpha, sigma and mu (if mean-reverting) broadcast against them."""
    check(prediction)
    if prediction == "x0":
        return f
    if mu is not None:
        return mu + to_denoised(prediction, f, x - mu, alpha, sigma)
    if prediction == "v":
        return (alpha * x - sigma * f) / (alpha**2 + sigma**2)
    if prediction == "flow":
        return (x - sigma * f) / (alpha + sigma)
    if bool((alpha == 0).any()):
        raise ScheduleError("An eps network says nothing about the data at alpha = 0: start at a time below the last one.")
    return (x - sigma * f) / alpha


def from_denoised(prediction: Prediction, denoised: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, mu: Tensor | None = None) -> Tensor:
    """The inverse of `to_denoised`: what a network of that kind would have answered. Needs sigma > 0 unless x0."""
    check(prediction)
    if prediction == "x0":
        return denoised
    if mu is not None:
        return from_denoised(prediction, denoised - mu, x - mu, alpha, sigma)
    eps = (x - alpha * denoised) / sigma
    return {"eps": eps, "v": alpha * eps - sigma * denoised, "flow": eps - denoised}[prediction]
