"""Recurrent layers in a few ops over all steps compute what torch's compute, and what these make step by step."""

from itertools import product

import pytest
import torch
from networks import normal
from torch import Tensor, nn

from mipp.graph import trace as tracing
from mipp.graph.call import Call
from mipp.graph.layers import as_layer, is_layer
from mipp.graph.program import Program, Ref, execute
from mipp.graph.trace import trace
from mipp.modules.cells import CELLS
from mipp.modules.copies import tensors_by_name, working_copy
from mipp.modules.recurrent import LAYERS

KINDS = {
    "LSTM": nn.LSTM,
    "LSTM, projected": lambda *args, **kwargs: nn.LSTM(*args, proj_size=3, **kwargs),
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "RNN with ReLUs and no biases": lambda *args, **kwargs: nn.RNN(*args, nonlinearity="relu", bias=False, **kwargs),
}
FORMS = list(product(KINDS, (1, 2), (False, True), (False, True)))


def layer(kind: str, layers: int, bidirectional: bool, batch_first: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    module = KINDS[kind](4, 5, layers, bidirectional=bidirectional, batch_first=batch_first)
    return module.double().eval(), normal(3, 6, 4).double()


def values_of(module: nn.Module, program: Program, x: Tensor) -> dict[int, Tensor]:
    """All values of the program, computed on some inputs."""
    named = tensors_by_name(module)
    bound = {i: named[v.name] for i, v in enumerate(program.values) if v.name in named} | program.constants
    env = {program.inputs[0]: x}
    with torch.inference_mode():
        execute(program, env, bound, (0, len(program.ops)), [i for op in program.ops for i in op.outputs])
    return {**bound, **env, program.inputs[0]: x}


def flat(outputs) -> list[Tensor]:
    states = outputs[1] if isinstance(outputs[1], tuple) else [outputs[1]]
    return [outputs[0], *states]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_outputs_and_last_states_are_those_of_the_module(form):
    module, x = layer(*form)
    found = LAYERS[getattr(torch.ops.aten, name_of(module)).input](
        x, start_of(module, x), module._flat_weights, module.bias, module.num_layers, 0.0, False,
        module.bidirectional, module.batch_first,
    )  # fmt: skip
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found, flat(module(x)), strict=True))


def name_of(module: nn.RNNBase) -> str:
    return {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}.get(module.mode, module.mode.lower())


def start_of(module: nn.RNNBase, x: Tensor) -> Tensor | list[Tensor]:
    number, samples = module.num_layers * (1 + module.bidirectional), x.shape[0 if module.batch_first else 1]
    hidden = x.new_zeros(number, samples, getattr(module, "proj_size", 0) or module.hidden_size)
    return [hidden, x.new_zeros(number, samples, module.hidden_size)] if module.mode == "LSTM" else hidden


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_each_weight_reads_and_writes_what_it_does_step_by_step(form, monkeypatch):
    module, x = layer(*form)
    time = int(module.batch_first)

    def rows(whole: bool) -> dict[str, tuple[Tensor, Tensor]]:
        program = trace(working_copy(module), Call((x,)))
        values, found = values_of(module, program, x), {}
        for op in (op for op in program.ops if is_layer(op.name)):
            arguments = as_layer(op.name, op.arguments)
            name = program.values[arguments["weight"].index].name
            pair = values[arguments["input"].index], values[op.outputs[0]]
            found.setdefault(name, []).append(pair)
        dim = time if whole else 0
        return {name: tuple(torch.cat(side, dim) for side in zip(*uses, strict=True)) for name, uses in found.items()}

    whole = rows(whole=True)
    monkeypatch.setattr(tracing, "_IN_OPS", CELLS)
    monkeypatch.setattr(tracing, "LAYERS", {})
    steps = rows(whole=False)
    assert whole.keys() == steps.keys() == {name for name, p in module.named_parameters() if p.ndim == 2}
    for name, sides in whole.items():
        for all_at_once, each in zip(sides, steps[name], strict=True):
            ordered = all_at_once.transpose(0, 1) if module.batch_first else all_at_once
            ordered = ordered.flip(0) if "reverse" in name and "ih" not in name else ordered
            assert torch.allclose(ordered.flatten(0, 1), each.flatten(0, -2), rtol=1e-10)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_number_of_ops_does_not_depend_on_that_of_steps(form):
    module, x = layer(*form)
    lengths = [x.repeat(1, times, 1) if module.batch_first else x.repeat(times, 1, 1) for times in (1, 9)]
    one, other = (trace(working_copy(module), Call((more,))) for more in lengths)
    assert one.signature == other.signature


def test_a_module_in_train_mode_drops_units_between_its_layers():
    module, x = nn.LSTM(4, 5, 2, dropout=0.5), normal(3, 6, 4)
    names = [op.name for op in trace(module, Call((x,))).ops]
    assert names.count("dropout") == 1


def test_derivatives_are_those_of_the_module():
    module, x = layer("GRU", 2, True, True)
    program = trace(working_copy(module), Call((x,)))
    named = tensors_by_name(module)
    bound = {i: named[v.name] for i, v in enumerate(program.values) if v.name in named} | program.constants
    env = {program.inputs[0]: x}
    execute(program, env, {i: t.clone() if t.is_inference() else t for i, t in bound.items()}, (0, len(program.ops)))
    weights = list(module.parameters())
    found = torch.autograd.grad(env[program.outputs[0]].square().sum(), weights)
    expected = torch.autograd.grad(module(x)[0].square().sum(), weights)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(found, expected, strict=True))


def test_gates_that_nothing_asks_for_are_not_computed():
    module, x = layer("LSTM", 1, False, True)
    program = trace(working_copy(module), Call((x,)))
    products = {op.outputs[0] for op in program.ops if is_layer(op.name)}
    named = tensors_by_name(module)
    bound = {i: named[v.name] for i, v in enumerate(program.values) if v.name in named} | program.constants

    def run(keep, **how) -> set[int]:
        env = {program.inputs[0]: x}
        with torch.inference_mode():
            execute(program, env, bound, (0, len(program.ops)), keep, **how)
        return set(env)

    given, fed = sorted(products)
    (ahead,) = (op for op in program.ops if op.name == "recurrent_states")
    assert not run(program.outputs) & products
    assert run([*program.outputs, fed]) & products == {fed}
    assert run([given], moves=False) & {given, fed, *ahead.outputs} == {given}
    assert isinstance(ahead.args[0], Ref)
    assert {program.start_of(program.values[value].producer) for value in products} == {ahead.index}
