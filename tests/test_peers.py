"""What each method but MIPP promises on its own: formulas against finite differences, brute force and dense algebra."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import named
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import mipp
from mipp.data.calibration import read
from mipp.methods import (
    IMP,
    L1,
    OTO,
    SNIP,
    SOSPH,
    SOSPI,
    GraSP,
    IterSNIP,
    ProsPr,
    Random,
    Reinitialised,
    Scratch,
    SynFlow,
    Task,
    Taylor,
)
from mipp.methods.common.scores import parts, select_in_rounds
from mipp.methods.oto import half_space
from mipp.methods.synflow import flow
from mipp.plan.cost import LayerTimes, cost_of


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def task(model: nn.Module, batches=2, samples=7, shape=(4,), train=None) -> Task:
    generator, dtype = torch.Generator().manual_seed(5), next(model.parameters()).dtype
    data = [
        (torch.randn(samples, *shape, generator=generator, dtype=torch.float64).to(dtype), torch.arange(samples) % 3)
        for _ in range(batches)
    ]
    found = mipp.inspect(model, data[0][0][:2])
    return Task(model, found.graph, cost_of(found.graph), read(mipp.Calibration(data), None), F.cross_entropy, train)


def mean_loss(given: Task, weights, temperature: float = 1.0) -> torch.Tensor:
    losses = [
        F.cross_entropy(functional_call(given.model, weights, b.call.args) / temperature, b.labels) * b.samples
        for b in given.batches
    ]
    return torch.stack(losses).sum() / sum(b.samples for b in given.batches)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def node_parts(given: Task, values, group: str, node: int) -> torch.Tensor:
    """All entries of one node, by hand, for a chain of linear layers named 0, 2, 4."""
    after = str(int(group) + 2)
    rows = [
        values[f"{group}.weight"][node],
        values[f"{group}.bias"][node].reshape(1),
        values[f"{after}.weight"][:, node],
    ]
    return torch.cat(rows)


def gates_by_difference(function, sizes, step=1e-5):
    """Derivatives of `function(gates)` by each gate at one."""
    found = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}
    for name, size in sizes.items():
        for node in range(size):
            values = []
            for sign in (1, -1):
                gates = {n: torch.ones(s, dtype=torch.float64) for n, s in sizes.items()}
                gates[name][node] += sign * step
                values.append(float(function(gates).detach()))
            found[name][node] = (values[0] - values[1]) / (2 * step)
    return found


SIZES = {"0": 6, "2": 5}


def gated_outputs(model: nn.Sequential, gates, x, weights=None):
    """The chain with gates on its activations."""
    w = dict(model.named_parameters()) if weights is None else weights
    x = torch.tanh(F.linear(x, w["0.weight"], w["0.bias"])) * gates["0"]
    x = torch.tanh(F.linear(x, w["2.weight"], w["2.bias"])) * gates["2"]
    return F.linear(x, w["4.weight"], w["4.bias"])


def test_snip_as_a_gate_is_the_derivative_by_a_factor_on_the_activation():
    given = task(chain())

    def loss(gates):
        parts = [F.cross_entropy(gated_outputs(given.model, gates, b.call.args[0]), b.labels) for b in given.batches]
        return torch.stack(parts).mean()

    expected = gates_by_difference(loss, SIZES)
    found = SNIP(structure="gate").rank(given)
    for name in SIZES:
        torch.testing.assert_close(found[name], expected[name].abs(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("structure", "order"), [("l1", 1), ("l2", 2)])
def test_snip_adds_up_sensitivities_of_all_weights_of_a_node(structure, order):
    given = task(chain())
    weights = weights_of(given.model)
    sensitivity = {}
    for name, weight in weights.items():
        sensitivity[name] = torch.zeros_like(weight)
        for place in itertools.product(*map(range, weight.shape)):
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                changed = {**weights, name: weight.clone()}
                changed[name][place] *= factor
                losses.append(float(mean_loss(given, changed)))
            sensitivity[name][place] = (losses[0] - losses[1]) / 2e-5
    found = SNIP(structure=structure).rank(given)
    for name, size in SIZES.items():
        expected = [float(node_parts(given, sensitivity, name, i).norm(p=order)) for i in range(size)]
        torch.testing.assert_close(found[name], torch.tensor(expected).double(), rtol=1e-5, atol=1e-8)


def test_grasp_is_weight_times_the_change_of_the_gradient_along_itself():
    given = task(chain())

    def slope(weights):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        found = torch.autograd.grad(mean_loss(given, leaves, 200.0), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    weights = weights_of(given.model)
    gradient, step = slope(weights), 1e-2
    ahead, behind = (slope({n: w + s * step * gradient[n] for n, w in weights.items()}) for s in (1, -1))
    products = {n: w * (ahead[n] - behind[n]) / (2 * step) for n, w in weights.items()}
    found = {s: GraSP(structure=s).rank(given) for s in ("l1", "gate")}
    for name, size in SIZES.items():
        after = str(int(name) + 2)
        absolute = torch.stack([node_parts(given, products, name, i).abs().sum() for i in range(size)])
        torch.testing.assert_close(found["l1"][name], absolute, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(found["gate"][name], products[f"{after}.weight"].sum(0), rtol=1e-5, atol=1e-12)


def test_taylor_is_the_squared_derivative_by_a_factor_on_the_activation_averaged_over_batches():
    given = task(chain())
    expected = {name: torch.zeros(size, dtype=torch.float64) for name, size in SIZES.items()}
    for b in given.batches:
        slopes = gates_by_difference(
            lambda gates, b=b: F.cross_entropy(gated_outputs(given.model, gates, b.call.args[0]), b.labels), SIZES
        )
        for name in SIZES:
            expected[name] += slopes[name].square()
    found = Taylor().rank(given)
    for name in SIZES:
        torch.testing.assert_close(
            found[name] / found[name].sum(), expected[name] / expected[name].sum(), rtol=1e-5, atol=1e-9
        )


def test_taylor_sees_through_a_batch_norm():
    """What stands between a node and its reader is part of it: a gate behind the norm, not before."""
    model = named("conv bn relu chain").model()
    given = task(model, shape=(3, 6, 6))
    given = copy.copy(given)
    object.__setattr__(given, "loss_fn", lambda output, labels: F.cross_entropy(output.mean((2, 3)), labels % 2))
    name, group = next(iter(given.graph.groups.items()))
    reader = next(s for s in group.slices if s.reads)
    weight = dict(model.named_parameters())[reader.tensor]

    def loss(gates, batch):
        with torch.no_grad():
            scaled = weight * gates[name].reshape(1, -1, 1, 1)
            return given.loss_fn(functional_call(model, {reader.tensor: scaled}, batch.call.args), batch.labels)

    slopes = [gates_by_difference(lambda g, b=b: loss(g, b), {name: group.size})[name] for b in given.batches]
    expected = sum(b.samples * s.square() for b, s in zip(given.batches, slopes, strict=True))
    torch.testing.assert_close(Taylor().rank(given)[name], expected, rtol=1e-5, atol=1e-9)


def dense_second_order(given: Task):
    """Gradient, Hessian and the flat weights, densely."""
    weights = weights_of(given.model)
    flat = torch.cat([w.flatten() for w in weights.values()])

    def loss(vector):
        pieces = vector.split([w.numel() for w in weights.values()])
        return mean_loss(given, {n: p.view_as(w) for (n, w), p in zip(weights.items(), pieces, strict=True)})

    return torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat), flat, weights


def producing(weights, group: str, node: int) -> torch.Tensor:
    """Indicator of the weights that produce one node, flat."""
    marks = {n: torch.zeros_like(w) for n, w in weights.items()}
    marks[f"{group}.weight"][node] = 1
    marks[f"{group}.bias"][node] = 1
    return torch.cat([m.flatten() for m in marks.values()])


def test_sosp_h_against_the_dense_hessian():
    given = task(chain())
    gradient, hessian, flat, weights = dense_second_order(given)
    nodes = {name: [flat * producing(weights, name, i) for i in range(size)] for name, size in SIZES.items()}
    every = sum(itertools.chain(*nodes.values()))
    found = SOSPH().rank(given)
    for name, own in nodes.items():
        expected = torch.stack([(w @ gradient).abs() + 0.5 * (w @ hessian @ every).abs() for w in own])
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-12)


def test_sosp_i_removes_first_what_changes_the_gauss_newton_model_least():
    given = task(chain())
    gradient, _, flat, weights = dense_second_order(given)
    inputs = torch.cat([b.call.args[0] for b in given.batches])

    def outputs(vector):
        pieces = vector.split([w.numel() for w in weights.values()])
        named_ = {n: p.view_as(w) for (n, w), p in zip(weights.items(), pieces, strict=True)}
        return functional_call(given.model, named_, (inputs,))

    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    probabilities = given.model(inputs).softmax(1).detach()
    costs = {}
    for name, size in SIZES.items():
        for node in range(size):
            own = flat * producing(weights, name, node)
            phi = jacobian @ own
            variance = (probabilities * phi.square()).sum(1) - (probabilities * phi).sum(1).square()
            costs[name, node] = float((own @ gradient).abs() + 0.5 * variance.mean())
    first = min(costs, key=costs.get)
    kept = SOSPI().plan(given, mipp.Budget(nodes=10)).kept
    assert [(n, i) for n, size in SIZES.items() for i in range(size) if i not in kept[n]] == [first]


def test_synflow_of_two_linear_layers_by_hand():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    first, second = (m.weight.detach().abs() for m in model)
    given = task(model, shape=(3,))
    through = first.sum(1) * second.sum(0)  # from ones through node i to the sum of the outputs
    found = flow(model, given.batches[0])
    torch.testing.assert_close(found["0.weight"].sum(1), through)
    torch.testing.assert_close(found["1.weight"].sum(0), through)
    kept = SynFlow(rounds=1).plan(given, mipp.Budget(widths={"0": 2})).kept["0"]
    assert set(kept) == set(through.topk(2).indices.tolist())


@settings(max_examples=15)
@given(st.integers(0, 2**31 - 1))
def test_synaptic_flow_is_conserved_by_every_hidden_node(seed):
    """What flows in through the weights and the bias flows out (Tanaka et al. 2020, theorem 1)."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)
    ).double()
    given = task(model, shape=(3, 6, 6), samples=3)
    found = flow(model, given.batches[0])
    for group in given.graph.groups.values():
        flows = [sum(part.sum(1) for part in parts(group, found, reads=reads)) for reads in (False, True)]
        torch.testing.assert_close(flows[0], flows[1])


def test_iterated_synflow_keeps_every_layer_of_an_untrained_network_alive():
    """One round empties the widest layer; a hundred do not (its average score rises as it shrinks)."""
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    given = task(model)
    budget = mipp.Budget(nodes=6, min_keep=0)
    assert SynFlow(rounds=1).plan(given, budget).collapsed
    assert not SynFlow(rounds=100).plan(given, budget).collapsed


def test_one_round_of_iterative_snip_is_snip_and_more_rounds_are_not():
    given = task(chain())
    budget = mipp.Budget(nodes=0.4)
    once = SNIP().plan(given, budget).kept
    assert IterSNIP(rounds=1).plan(given, budget).kept == once
    assert any(IterSNIP(rounds=r).plan(given, budget).kept != once for r in (3, 5, 8))


def test_prospr_is_the_derivative_of_the_loss_after_training_by_the_gates():
    given = task(chain(), batches=3)
    method = ProsPr(steps=3, learning_rate=0.5)

    def loss(weights, step):
        batch = given.batches[step % 3]
        return F.cross_entropy(functional_call(given.model, weights, batch.call.args), batch.labels)

    def after_training(gates):
        weights = weights_of(given.model)
        for name, gate in gates.items():
            weights[f"{name}.weight"] = weights[f"{name}.weight"] * gate[:, None]
            weights[f"{name}.bias"] = weights[f"{name}.bias"] * gate
        for step in range(3):
            weights = {n: w.detach().requires_grad_() for n, w in weights.items()}
            slopes = torch.autograd.grad(loss(weights, step), list(weights.values()))
            weights = {n: w - 0.5 * s for (n, w), s in zip(weights.items(), slopes, strict=True)}
        return loss(weights, 3).detach()

    expected = gates_by_difference(after_training, SIZES)
    found = method.rank(given)
    for name in SIZES:
        torch.testing.assert_close(found[name], expected[name].abs(), rtol=1e-5, atol=1e-9)


def test_a_network_shrinks_from_round_to_round_towards_a_latency():
    """A MAC takes a millisecond: the rounds on the way are priced by the table of layers."""
    given, seen = task(chain()), []
    ops = [work.op for work in given.graph.macs]
    grid = np.tile([0.0, 1e3], (len(ops), 1))
    cost = cost_of(given.graph, LayerTimes(tuple((op,) for op in ops), grid, grid))

    def rank(_, kept):
        seen.append(sum(map(len, kept.values())))
        return {name: torch.arange(group.size).double() for name, group in given.graph.groups.items()}

    timed = dataclasses.replace(given, cost=cost, latency=cost.table_ms)
    found = select_in_rounds(L1(), timed, mipp.Budget(latency_ms=0.3), 4, rank)
    assert all(a > b for a, b in itertools.pairwise([*seen, sum(map(len, found.values()))]))


# --- methods that train -----------------------------------------------------------------------------------------------


class Training:
    """Ten steps of SGD for a whole training; notes the weights after each."""

    def __init__(self, data) -> None:
        self.data, self.seen = data, []

    def __call__(self, model, *, fraction=1.0, after_step=lambda: None):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(max(1, round(10 * fraction))):
            optimiser.zero_grad()
            F.cross_entropy(model(self.data[0]), self.data[1]).backward()
            optimiser.step()
            after_step()
            self.seen.append(copy.deepcopy(model.state_dict()))


def trained_task(model: nn.Module) -> tuple[Task, Training]:
    given = task(model)
    training = Training((given.batches[0].call.args[0], given.batches[0].labels))
    return Task(model, given.graph, given.cost, given.batches, train=training), training


def test_imp_rewinds_bit_by_bit_to_the_weights_early_in_training():
    given, training = trained_task(chain())
    _, state = IMP(rewind=0.2).plan(given, mipp.Budget(nodes=0.5))
    early, late = training.seen[1], training.seen[-1]
    assert all(torch.equal(state[name], early[name]) for name in state)
    assert any(not torch.equal(state[name], given.model.state_dict()[name]) for name in state)
    assert any(not torch.equal(late[name], early[name]) for name in state)


def test_imp_trains_without_what_it_removed_and_removes_more_each_round():
    given, training = trained_task(chain())
    plan, _ = IMP(rewind=0.2, per_round=0.3).plan(given, mipp.Budget(nodes=0.4))
    rounds = [training.seen[i] for i in range(9, len(training.seen), 8)]
    alive = [int((s["0.weight"].abs().sum(1) > 0).sum() + (s["2.weight"].abs().sum(1) > 0).sum()) for s in rounds]
    assert alive[0] == 11
    assert len(alive) == 3
    assert all(a > b for a, b in itertools.pairwise([*alive, sum(plan.widths.values())]))


def test_prune_returns_the_rewound_weights_cut():
    given, training = trained_task(chain())
    data = [(b.call.args[0], b.labels) for b in given.batches]
    result = mipp.prune(
        given.model, data, mipp.Budget(nodes=0.5), IMP(rewind=0.2), compensate=False, train=training, progress=False
    )
    kept = list(result.plan.kept["0"])
    assert torch.equal(result.model[0].weight, training.seen[1]["0.weight"][kept])


@pytest.mark.parametrize("variant", ["dhspg", "hesso"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_oto_leaves_nothing_to_lose_in_the_nodes_it_removes(variant, dtype):
    given, _ = trained_task(chain().to(dtype))
    plan, state = OTO(variant=variant, start=0.2).plan(given, mipp.Budget(nodes=0.5))
    whole = copy.deepcopy(given.model)
    whole.load_state_dict(state)
    for name, group in given.graph.groups.items():
        sizes = sum(part.abs().sum(1) for part in parts(group, dict(whole.named_parameters()), reads=False))
        assert set(torch.nonzero(sizes == 0).flatten().tolist()) == set(range(group.size)) - set(plan.kept[name])
    x = given.batches[0].call.args[0]
    torch.testing.assert_close(mipp.apply(plan, whole)(x), whole(x))


def least_redundant(weights, gradient, count: int) -> dict[str, set[int]]:
    """The cosine of weights and gradient, and the inverse of the norm over the number of weights, each of norm 1."""
    cosines, small = [], []
    for name in ("0", "2"):
        x, g = (torch.cat([of[f"{name}.weight"], of[f"{name}.bias"][:, None]], 1) for of in (weights, gradient))
        cosines.append(F.cosine_similarity(x, g))
        small.append(x.shape[1] / x.norm(dim=1))
    cosine, size = torch.cat(cosines), torch.cat(small)
    nodes = (cosine / cosine.norm() + size / size.norm()).argsort()[:count].tolist()
    first = len(weights["0.bias"])
    return {"0": {n for n in nodes if n < first}, "2": {n - first for n in nodes if n >= first}}


@pytest.mark.parametrize("leaves", ["gradients", "zeros", "none"])
def test_oto_scores_by_the_gradient_or_else_by_the_way_of_the_weights(leaves):
    given, training = trained_task(chain())
    seen: list[nn.Module] = []

    def ending_at_rate_zero(model, *, fraction=1.0, after_step=lambda: None):
        training(model, fraction=fraction)
        model.zero_grad(set_to_none=leaves != "zeros")
        if leaves == "gradients":
            F.cross_entropy(model(training.data[0]), training.data[1]).backward()
        after_step()  # of a step of no length
        seen.append(copy.deepcopy(model))

    plan, _ = OTO(start=0.2).plan(dataclasses.replace(given, train=ending_at_rate_zero), mipp.Budget(nodes=0.5))
    weights, start = seen[0].state_dict(), given.model.state_dict()
    if leaves == "gradients":
        seen[0].zero_grad()
        F.cross_entropy(seen[0](training.data[0]), training.data[1]).backward()
        gradient = {name: p.grad for name, p in seen[0].named_parameters()}
    else:
        gradient = {name: start[name] - weight for name, weight in weights.items()}
    assert {n: set(k) for n, k in plan.kept.items()} == least_redundant(weights, gradient, sum(plan.widths.values()))


class Single(nn.Module):
    """Fixes its precision in its code."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(x.float()).relu())


def test_oto_trains_a_model_that_runs_in_one_precision_only():
    given, _ = trained_task(Single())
    plan, _ = OTO(start=0.2).plan(given, mipp.Budget(nodes=0.5))
    assert sum(plan.widths.values()) == 3
    assert not given.notes


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid])
def test_the_report_says_what_it_costs_to_cut_where_zero_is_not_silence(activation):
    model = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)).double()
    given, _ = trained_task(model)
    OTO(start=0.2).plan(given, mipp.Budget(nodes=0.5))
    assert any("changes the outputs" in note for note in given.notes) == (activation is nn.Sigmoid)


def test_half_space_projection_of_two_nodes():
    """x = (1, 0): a step to (0.5, 5) stays, a step to (-0.1, 5) does not; with a larger least part neither does."""
    before, after = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.5, 5.0], [-0.1, 5.0]])
    square, inner = before.square().sum(1), (before * after).sum(1)
    assert half_space(square, inner, 0.0).tolist() == [True, False]
    assert half_space(square, inner, 0.6).tolist() == [False, False]


# --- controls ---------------------------------------------------------------------------------------------------------


def test_random_at_the_widths_of_another_method_keeps_other_nodes_and_as_many():
    given = task(chain())
    budget = mipp.Budget(macs=0.5)
    other = Taylor().plan(given, budget)
    plans = [Random(like=Taylor()).plan(Task(**{**vars(given), "seed": s}), budget) for s in range(4)]
    assert all(plan.widths == other.widths for plan in plans)
    assert any(plan.kept != other.kept for plan in plans)


def test_the_reinitialised_control_keeps_the_nodes_and_changes_every_weight():
    given = task(chain())
    budget = mipp.Budget(macs=0.5)
    plan, state = Reinitialised(like=L1()).plan(given, budget)
    assert plan.kept == L1().plan(given, budget).kept
    assert all((state[name] != weight).all() for name, weight in given.model.state_dict().items())
    assert torch.equal(Reinitialised(like=L1()).plan(given, budget)[1]["0.weight"], state["0.weight"])


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_was_initialised_with_the_seed_of_the_task_gets_other_weights(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        given = dataclasses.replace(task(chain().float()), seed=seed)
    _, state = Reinitialised(like=L1()).plan(given, mipp.Budget(macs=0.5))
    assert all((state[name] != weight).all() for name, weight in given.model.state_dict().items())


def test_scratch_trains_a_network_of_these_widths():
    given, training = trained_task(chain())
    plan, state = Scratch(like=L1()).plan(given, mipp.Budget(macs=0.5))
    whole = copy.deepcopy(given.model)
    whole.load_state_dict(state)
    small = mipp.apply(plan, whole)
    assert plan.kept == L1().plan(given, mipp.Budget(macs=0.5)).kept
    assert len(training.seen) == 10
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in training.seen[-1].items())
