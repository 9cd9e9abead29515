"""Train in several processes with the same losses as in one: batches, losses, batch norm and gathered lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence, Sized

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.engines import IterationEvents
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, RandomSampler

from ..errors import OptionError, ProcessesError


def start_processes(device: torch.device) -> None:
    """
    Join the process group that torchrun prepared: NCCL on CUDA devices, Gloo on CPUs.

    Processes other than the first log only warnings and errors.

    Args:
        device: the device of this process.

    Raises:
        ProcessesError: the program was not started by torchrun.
    """
    if not dist.is_torchelastic_launched():
        raise ProcessesError(
            "multi_gpu_train.json needs several processes. Start it as "
            "torchrun --standalone --nproc_per_node=N -m monai.bundle run ..., or leave it out to train in one process."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if dist.get_rank() > 0:
        logging.disable(logging.INFO)


def first_process_first(function: Callable, **arguments: object) -> object:
    """Call ``function`` in the first process, then in the others, which find the files that it has written."""
    with idist.one_rank_first():
        return function(**arguments)


def gather(items: list) -> list[list]:
    """Gather the lists of all processes, ordered by rank; items must be picklable."""
    lists: list = [items]
    if idist.get_world_size() > 1:
        lists = [None] * idist.get_world_size()
        dist.all_gather_object(lists, items)
    return lists


class DistributedBatchSampler(BatchSampler):
    """
    Select this process's items of each batch; the batches are those that a single process draws from the same seed.

    If the last batch of an epoch has fewer items than there are processes, items are used more than once. A single item
    is used by all processes, which changes neither the mean loss nor the statistics of batch norm.

    Args:
        dataset: data set to draw from, each item once per epoch.
        batch_size: items per batch, over all processes.

    Raises:
        OptionError: the batch is smaller than the number of processes.
    """

    def __init__(self, dataset: Sized, batch_size: int) -> None:
        super().__init__(RandomSampler(dataset), batch_size, drop_last=False)
        self.rank, self.number = idist.get_rank(), idist.get_world_size()
        if batch_size < self.number:
            raise OptionError(
                f"A batch of {batch_size} cannot be divided among {self.number} processes. Start fewer processes or "
                "use larger batches: detector_batch_size slices, of which slices_per_subject are one item, or "
                "classifier_batch_size patches."
            )

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            while len(batch) < self.number:
                batch = batch + batch[: self.number - len(batch)]
            yield batch[self.rank :: self.number]


class LossReweighting:
    """
    Reweight the loss of each process so that the gradients and the logged loss are those of the whole batch.

    DistributedDataParallel averages gradients over processes. That is the gradient of the batch's loss only if all
    parts of the batch have equal weight. Parts may differ by one item, and ``CrossEntropyLoss`` with class weights
    divides by the sum of the weights of its items. A mean loss L_r over a part of weight W_r becomes
    L_r W_r P / sum(W) on each of P processes. W is the number of items, or that sum of weights.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.weigh)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.average)

    @staticmethod
    def weigh(engine: Engine) -> None:
        """Scale the loss before its gradient is computed."""
        output = engine.state.output
        count = torch.tensor(float(len(output["image"])), device=output["loss"].device)
        if isinstance(engine.loss_function, nn.CrossEntropyLoss) and engine.loss_function.weight is not None:
            count = engine.loss_function.weight[output["label"]].sum()
        output["loss"] = output["loss"] * (count * idist.get_world_size() / idist.all_reduce(count.clone()))

    @staticmethod
    def average(engine: Engine) -> None:
        """Replace the loss of this process's part by the loss of the batch."""
        loss = engine.state.output["loss"].detach().clone()
        engine.state.output["loss"] = idist.all_reduce(loss) / idist.get_world_size()


class SynchronisedBatchNorm(_BatchNorm):
    """
    Batch norm over the items of all processes, on any device that the process group supports.

    It computes the same as ``torch.nn.SyncBatchNorm``, which runs only on CUDA: mean and (biased) variance over all
    items for the output, the unbiased variance for the running average. Sums are reduced by differentiable operations.
    Processes may hold different numbers of items. In evaluation mode it equals the batch norm that it replaces.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Expected an input of two dimensions or more, got {input.dim()}.")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        self._check_input_dim(input)
        if not self.training or not self.track_running_stats or idist.get_world_size() == 1:
            return super().forward(input)
        input = input.as_subclass(Tensor)  # statistics have no spatial metadata, which a MetaTensor would propagate
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = input.new_full((1,), input.numel() // input.shape[1])
        total = _sum_of_all(torch.cat([input.sum(axes), count]))
        number = total[-1].detach()
        mean = total[:-1] / number
        centred = input - mean.view(shape)
        variance = _sum_of_all((centred * centred).sum(axes)) / number
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (number / (number - 1)), momentum)
        output = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output


class _SumOfAll(torch.autograd.Function):
    """A sum over processes, whose gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return idist.all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return idist.all_reduce(gradient.clone())


def _sum_of_all(tensor: Tensor) -> Tensor:
    return _SumOfAll.apply(tensor)


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """
    Move a network to its device, and replace every batch norm by one over all processes.

    Names and values of parameters and buffers are kept, so weights fit both forms.

    Args:
        network: may contain ``BatchNorm1d``, ``2d`` and ``3d``.
        device: on CUDA PyTorch's own ``SyncBatchNorm`` is used, else :class:`SynchronisedBatchNorm`.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network.to(device))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                other = SynchronisedBatchNorm(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                other.load_state_dict(child.state_dict())
                other.train(child.training)
                setattr(parent, name, other)
    return network.to(device)


def parallel(module: nn.Module, device: torch.device) -> nn.parallel.DistributedDataParallel:
    """Wrap a module so that its gradients are averaged over processes."""
    return nn.parallel.DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def indices_of_this_process(items: Sequence) -> range:
    """Return the indices of the items that this process works on: rank, rank + number of processes, ..."""
    return range(idist.get_rank(), len(items), idist.get_world_size())
