"""Darknet's optimiser and its learning rate per iteration, for PyTorch's SGD and MONAI's trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized

from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def learning_rate_factor(
    iteration: int,
    burn_in: int = 1000,
    power: float = 4.0,
    steps: Sequence[int] = (),
    scales: Sequence[float] = (),
) -> float:
    """
    Return the ratio of an iteration's learning rate to the configured one.

    This is ``get_current_rate`` of darknet's ``src/network.c`` with the policy ``steps``.

    Args:
        iteration: number of the update, from 1, because darknet counts a batch as seen before it updates.
        burn_in: iterations of the burn-in, in which the rate grows as (iteration / burn_in) ** power.
        power: exponent of the burn-in; darknet's default is 4.
        steps: iterations, in rising order, from which the rate is multiplied by the corresponding scale.
        scales: one factor per step.

    Returns:
        the factor; steps have no effect during the burn-in.
    """
    if iteration < burn_in:
        return (iteration / burn_in) ** power
    return math.prod(scale for step, scale in zip(steps, scales, strict=True) if step <= iteration)


class DarknetSchedule(LambdaLR):
    """
    Darknet's burn-in and steps, see :func:`learning_rate_factor`; to be stepped after each iteration.

    Args:
        optimizer: its learning rate is the one after the burn-in.
        burn_in, power, steps, scales: see :func:`learning_rate_factor`.

    Raises:
        ValueError: the numbers of steps and scales differ, or the steps do not rise.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        burn_in: int = 1000,
        power: float = 4.0,
        steps: Sequence[int] = (),
        scales: Sequence[float] = (),
    ) -> None:
        if len(steps) != len(scales) or list(steps) != sorted(steps):
            raise ValueError(
                f"The schedule has the steps {list(steps)} and the scales {list(scales)}; expected as many scales as "
                "steps, and rising steps."
            )

        def factor(updates_made: int) -> float:
            return learning_rate_factor(updates_made + 1, burn_in, power, steps, scales)

        super().__init__(optimizer, factor)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """
    Group parameters for ``torch.optim.SGD`` so that only the weights of convolutions decay, as in darknet.

    ``update_convolutional_layer`` of darknet's ``src/convolutional_layer.c`` adds -decay * batch * w to the negative
    gradient, summed over the batch, multiplies by learning_rate / batch, and keeps momentum times the sum. This is
    SGD of PyTorch with the same learning rate, momentum and decay on the mean over the batch, which
    :class:`~..detection.region_loss.RegionLoss` gives. Biases, and the scales of batch normalisation, do not decay.

    Args:
        network: the module to train.
        weight_decay: weight decay of the convolutions' weights.

    Returns:
        two groups of parameters, with ``weight_decay`` set.
    """
    decaying: list[Parameter] = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
    known = {id(weight) for weight in decaying}
    others = [parameter for parameter in network.parameters() if id(parameter) not in known]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def epochs_of(iterations: int, data_loader: Sized) -> int:
    """
    Return the number of epochs needed for so many iterations, rounded up; at least 1.

    Args:
        iterations: updates of the weights.
        data_loader: its length is the number of iterations per epoch.
    """
    return max(1, math.ceil(iterations / len(data_loader)))
