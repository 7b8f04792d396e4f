"""Losses, gradients and Hessian products over the calibration data, on copies: what gradient methods share."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mipp.data.calibration import Batch
from mipp.errors import CalibrationError, MissingRequirementError, UnsupportedModelError
from mipp.graph.call import Call
from mipp.graph.trees import map_tensors
from mipp.modules.cells import differentiable_recurrence
from mipp.modules.copies import working_copy
from mipp.plan.task import Task
from mipp.runtime.default_device import callers_default_device
from mipp.runtime.mistakes import reraise_own

Tensors = dict[str, Tensor]


def differentiable(model: nn.Module, *, batch_statistics: bool = False) -> nn.Module:
    """A copy in eval mode whose floating-point parameters all require gradients.

    Args:
        model: Not changed.
        batch_statistics: Batch norms normalise by the batch, as in training: before training their running statistics
            mean nothing.
    """
    copied = working_copy(model)
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for module in copied.modules() if batch_statistics else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return copied


def parameters_of(model: nn.Module) -> Tensors:
    """Floating-point parameters by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.is_floating_point()}


def call_with_gradients(model: nn.Module, call: Call) -> Any:
    """Calls a model on copies of the tensors, with gradients of any order.

    Raises:
        UnsupportedModelError: The call raised; the cause is chained.
    """
    call = call.map(Tensor.clone)
    # fused attention has no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), differentiable_recurrence(model):
        try:
            return call(model)
        except (Exception, SystemExit) as error:
            reraise_own(error)
            raise UnsupportedModelError(
                f"A forward pass with gradients raised {type(error).__name__}: {error}. Check that the model can be "
                "trained on one calibration batch; batch norms that take the statistics of the batch need more than "
                "one value per channel."
            ) from error


def loss_on(task: Task, model: nn.Module, batch: Batch, temperature: float = 1.0) -> Tensor:
    """The task's loss on one batch, the outputs divided by a temperature.

    Raises:
        MissingRequirementError: There is no loss function, or no labels.
        UnsupportedModelError: The loss is no differentiable scalar.
    """
    require_loss(task)
    output = call_with_gradients(model, batch.call)
    if temperature != 1:
        with torch.enable_grad():
            output = map_tensors(output, lambda t: t / temperature if t.is_floating_point() else t)
    loss = loss_of_output(task, output, batch)
    if not loss.requires_grad:
        raise UnsupportedModelError(
            "The loss does not depend on the weights through differentiable operations; choose a method that needs no "
            "gradients, such as mipp or l1."
        )
    return loss


def require_loss(task: Task) -> None:
    """Raises MissingRequirementError if the task has no loss function, or batches without labels."""
    if task.loss_fn is None:
        raise MissingRequirementError(
            "The method differentiates a loss, and none was given; pass loss_fn, such as "
            "loss_fn=torch.nn.functional.cross_entropy, which is called as loss_fn(output, labels)."
        )
    if any(batch.labels is None for batch in task.batches):
        raise MissingRequirementError(
            "The method needs labels, and the calibration batches have none; pass batches of the form (input, labels)."
        )


def loss_of_output(task: Task, output: Any, batch: Batch) -> Tensor:
    """The task's loss of an output that the model gave for a batch."""
    assert task.loss_fn is not None
    with torch.enable_grad(), callers_default_device():
        try:
            loss = task.loss_fn(output, batch.labels)
        except (Exception, SystemExit) as error:
            reraise_own(error)
            raise CalibrationError(
                f"loss_fn(output, labels) raised {type(error).__name__}: {error}. Expected a function of what the "
                "model returns and of the labels of the calibration batches."
            ) from error
    if not (isinstance(loss, Tensor) and loss.numel() == 1):
        found = f"a Tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise CalibrationError(f"loss_fn(output, labels) returned {found}; expected a Tensor of one element.")
    return loss.reshape(())


def gradient(task: Task, model: nn.Module, temperature: float = 1.0) -> Tensors:
    """Gradient of the mean loss over all batches by every parameter, by name."""
    return _mean(batch_gradients(task, model, temperature), task)


def batch_gradients(task: Task, model: nn.Module, temperature: float = 1.0) -> Iterator[Tensors]:
    """Gradient of the loss on each batch."""
    weights = parameters_of(model)
    for batch in task.progress(task.batches, "gradients"):
        yield derivatives(loss_on(task, model, batch, temperature), weights)


def hessian_product(task: Task, model: nn.Module, vector: Mapping[str, Tensor], temperature: float = 1.0) -> Tensors:
    """The Hessian of the mean loss over all batches times a vector, exactly, by differentiating twice."""
    return _mean(_batch_products(task, model, vector, temperature), task)


def _batch_products(
    task: Task, model: nn.Module, vector: Mapping[str, Tensor], temperature: float
) -> Iterator[Tensors]:
    weights = parameters_of(model)
    for batch in task.progress(task.batches, "Hessian products"):
        first = derivatives(loss_on(task, model, batch, temperature), weights, create_graph=True)
        with torch.enable_grad():
            along = torch.stack([(first[name] * vector[name]).sum() for name in weights]).sum()
        yield (
            derivatives(along, weights) if along.requires_grad else {n: torch.zeros_like(w) for n, w in weights.items()}
        )


def derivatives(
    value: Tensor, weights: Mapping[str, Tensor], *, keep_graph: bool = False, create_graph: bool = False
) -> Tensors:
    """Derivatives of a scalar by every weight; zero where it does not depend on it.

    Args:
        value: The scalar.
        weights: By name.
        keep_graph: Others will be taken through the same graph.
        create_graph: The derivatives will be differentiated.
    """
    try:
        found = torch.autograd.grad(
            value,
            list(weights.values()),
            retain_graph=keep_graph or create_graph,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    except RuntimeError as error:
        reraise_own(error)
        raise UnsupportedModelError(
            f"Differentiating the model raised {error}. Choose a method that needs no gradients, such as mipp or l1."
        ) from error
    return dict(zip(weights, found, strict=True))


def _mean(values: Iterator[Tensors], task: Task) -> Tensors:
    """Mean over the batches, weighted by their samples.

    Raises:
        CalibrationError: A value is not finite.
    """
    total: Tensors = {}
    samples = sum(batch.samples for batch in task.batches)
    for batch, tensors in zip(task.batches, values, strict=True):
        for name, tensor in tensors.items():
            part = tensor.detach() * (batch.samples / samples)
            total[name] = total[name] + part if name in total else part
    for name, tensor in total.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CalibrationError(
                f"The derivative of the loss by '{name}' holds NaN or infinite values. Check the loss, the weights and "
                "the scale of the inputs."
            )
    return total
