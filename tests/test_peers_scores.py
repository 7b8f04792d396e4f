"""Peers that need no loss: reconstruction, activations and weights, against brute force, NumPy and torch-pruning."""

import itertools

import numpy as np
import pytest
import torch
import torch_pruning
from benchmarks.rivals import TorchPruning
from cases import named
from test_peers import chain, task
from torch import nn

import mipp
from mipp.data.calibration import read
from mipp.methods import (
    CHIP,
    FLAP,
    FPGM,
    L1,
    LAMP,
    OSSCAR,
    BatchNormScale,
    HRank,
    Interpolative,
    Task,
    ThiNet,
    Wanda,
)
from mipp.methods.interpolative import pivots
from mipp.methods.lamp import relative
from mipp.methods.maps import independence
from mipp.methods.reconstruction import LayerError
from mipp.methods.thinet import removal_order, scale_factors
from mipp.plan.cost import cost_of
from mipp.zoo import DigitsCNN, load

# --- where nothing that reads a group can be observed -----------------------------------------------------------------


@pytest.mark.parametrize("method", [Wanda, FLAP, OSSCAR, Interpolative, ThiNet, HRank, CHIP, mipp.methods.MIPP])
def test_nodes_that_no_layer_reads_are_ranked_by_weight_and_the_report_says_so(method):
    model = named("stacked experts").model()
    batches = [named("stacked experts").batch(40)]
    found = mipp.prune(model, batches, mipp.Budget(widths={"up": 3, "up#2": 4}), method(), progress=False)
    read = model.down.detach().square().sum((0, 2))
    assert set(found.plan.kept["up#2"]) == set(read.topk(4).indices.tolist())
    assert any("its nodes are ranked by weight" in note for note in found.report.notes)


def test_a_test_removes_no_node_that_it_knows_nothing_of():
    model, batches = named("stacked experts").model(), [named("stacked experts").batch(40)]
    with torch.no_grad():
        model.down[:, 2] = 0  # nothing reads it
    found = mipp.prune(model, batches, method=mipp.methods.MIPP(confidence=0.99), progress=False)
    assert found.plan.kept == {"up": (0, 1, 2), "up#2": (0, 1, 3, 4, 5)}


@pytest.mark.parametrize("method", [OSSCAR, Interpolative])
def test_second_moments_that_do_not_fit_into_memory_are_refused(method):
    with pytest.raises(mipp.MippError, match=r"memory_limit leaves .* too little for 2.*larger"):
        mipp.prune(chain(), [torch.randn(40, 4).double()], mipp.Budget(nodes=0.5), method(), memory_limit=500)


# --- reconstruction ---------------------------------------------------------------------------------------------------


def test_thinet_grows_the_removed_set_by_the_least_sum_of_squares():
    contributions = torch.randn(50, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    removed: list[int] = []
    for _ in range(4):
        left = [i for i in range(4) if i not in removed]
        sums = {i: float(contributions[:, [*removed, i]].sum(1).square().sum()) for i in left}
        removed.append(min(sums, key=sums.get))
    order = removal_order(contributions.mT @ contributions)
    assert order.argsort().tolist() == removed


def test_thinet_prefers_nodes_that_cancel_to_small_ones():
    x = torch.randn(100, dtype=torch.float64)
    contributions = torch.stack([3 * x, -3 * x, torch.randn(100).double(), torch.randn(100).double()], 1)
    order = removal_order(contributions.mT @ contributions).argsort().tolist()
    assert order.index(1) == order.index(0) + 1 or order.index(0) == order.index(1) + 1


def test_thinet_counts_what_a_sampled_output_receives():
    """With one position and one output there is nothing to sample: contributions are input times weight."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    given = task(model)
    hidden = torch.cat([model[:2](b.call.args[0]) for b in given.batches]).detach()
    gram = hidden * model[2].weight.detach()
    torch.testing.assert_close(ThiNet().rank(given)["0"], removal_order(gram.mT @ gram) / 6)


def test_thinet_compares_places_in_the_order_across_groups_of_any_size():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    plan = ThiNet(scope="global").plan(task(model), mipp.Budget(nodes=0.5))
    assert plan.widths == {"0": 16, "2": 2}


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.same = self.b

    def forward(self, x):
        return self.same(self.a(x).relu())


def test_thinet_rescales_a_weight_under_both_of_its_names():
    model = Aliased().double()
    _, state = ThiNet(rescale=True).plan(task(model), mipp.Budget(nodes=0.5))
    assert torch.equal(state["b.weight"], state["same.weight"])
    assert not torch.equal(state["b.weight"], model.b.weight)


def test_thinet_rescales_by_least_squares():
    contributions = torch.randn(60, 5, dtype=torch.float64)
    expected = np.linalg.lstsq(contributions[:, [0, 2, 3]].numpy(), contributions.sum(1).numpy(), rcond=None)[0]
    found = scale_factors(contributions.mT @ contributions, (0, 2, 3))
    torch.testing.assert_close(found[[0, 2, 3]], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    model = chain()
    plan, state = ThiNet(rescale=True).plan(task(model), mipp.Budget(nodes=0.5))
    ratio = state["2.weight"] / model[2].weight.detach()
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))  # one factor per node that is read
    assert (ratio[0, list(plan.kept["0"])] != 1).all()
    assert torch.equal(state["0.weight"], model[0].weight)


def test_osscar_error_is_the_residual_of_the_refitted_layer():
    """Every removal order of four nodes of two features each, against least squares from scratch."""
    x, weight = torch.randn(80, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    blocks = torch.arange(8).view(4, 2)
    for order in itertools.permutations(range(4), 3):
        layer = LayerError(x.mT @ x, weight, blocks, ridge=1e-12)
        total, gone = 0.0, []
        for node in order:
            total += float(layer.losses()[node])
            layer.remove(node)
            gone.append(node)
            left = blocks[[i for i in range(4) if i not in gone]].flatten()
            residual = np.linalg.lstsq(x[:, left].numpy(), (x @ weight.mT).numpy(), rcond=None)[1].sum()
            assert total == pytest.approx(residual, rel=1e-6)


def test_osscar_drops_what_can_be_refitted_and_keeps_what_is_alone():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 2 * model[0].weight[0], 2 * model[0].bias[0]
        model[2].weight[:, :2] *= 100
    kept = OSSCAR(ridge=1e-9).plan(task(model, samples=40), mipp.Budget(widths={"0": 5})).kept["0"]
    assert len({0, 1} & set(kept)) == 1


def test_pivots_lose_the_residual_that_the_kept_nodes_leave():
    x = torch.randn(30, 5, dtype=torch.float64) * torch.tensor([3.0, 1.0, 2.0, 0.5, 1.0]).double()
    x[:, 4] = x[:, 0] + 2 * x[:, 2]
    elimination = pivots(x.mT @ x)
    assert elimination.loss[1] == pytest.approx(0, abs=1e-10)  # one of 0, 2 and 4 is a combination of the others
    kept = list(elimination.kept(1))
    assert kept == [int(x.square().sum(0).argmax())]
    second = list(elimination.kept(2))
    rest = x - x[:, kept] @ torch.linalg.lstsq(x[:, kept], x).solution
    assert set(second) - set(kept) == {int(rest.square().sum(0).argmax())}


def test_the_loss_of_an_interpolation_is_the_energy_that_the_pivots_lack():
    base = torch.randn(200, 3, dtype=torch.float64)
    x = torch.cat([base, base[:, :1] + 0.3 * torch.randn(200, 4).double()], 1)  # four are nearly copies of the first
    elimination = pivots(x.mT @ x)
    for removed in range(8):
        kept = x[:, list(elimination.kept(7 - removed))]
        lacking = x - kept @ torch.linalg.lstsq(kept, x).solution if removed < 7 else x
        assert elimination.loss[removed] == pytest.approx(float(lacking.square().sum() / x.square().sum()), abs=1e-12)


def test_interpolative_drops_copies():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = model[0].weight[0], model[0].bias[0]
    kept = Interpolative().plan(task(model, samples=40), mipp.Budget(widths={"0": 5})).kept["0"]
    assert len({0, 3} & set(kept)) == 1


# --- scores -----------------------------------------------------------------------------------------------------------


def hidden_of(given: Task) -> np.ndarray:
    model = given.model
    return torch.cat([torch.tanh(model[0](b.call.args[0])) for b in given.batches]).detach().numpy()


def test_wanda_and_flap_against_numpy():
    given = task(chain())
    hidden, weight = hidden_of(given), given.model[2].weight.detach().numpy()
    wanda = np.abs(weight).sum(0) * np.sqrt((hidden**2).mean(0))
    np.testing.assert_allclose(Wanda().rank(given)["0"].numpy(), wanda, rtol=1e-10)
    flap = hidden.var(0) * (weight**2).sum(0)
    np.testing.assert_allclose(FLAP().rank(given)["0"].numpy(), (flap - flap.mean()) / flap.std(), rtol=1e-8)


def test_flap_sees_no_difference_between_copies():
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = model[0].weight[:1].clone(), 0.1
        model[2].weight[:] = model[2].weight[:, :1].clone()
    assert FLAP().rank(task(model))["0"].tolist() == [0.0] * 9


def test_hrank_takes_rounding_for_no_rank():
    """Maps of three by three, enlarged, have a rank of three at most, in any precision."""
    model = nn.Sequential(
        nn.Upsample(scale_factor=4, mode="bilinear"), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1), nn.Flatten()
    )
    found = [HRank().rank(task(each, shape=(2, 3, 3)))["1"] for each in (model.float(), model.double())]
    assert torch.equal(*found)
    assert float(found[0].max()) <= 4


def test_chip_computes_the_same_a_few_nodes_at_a_time(monkeypatch):
    maps = torch.randn(6, 20, dtype=torch.float64)
    whole = independence(maps)
    monkeypatch.setattr("mipp.methods.maps._ENTRIES", 80)
    torch.testing.assert_close(independence(maps), whole)


def test_hrank_counts_the_rank_of_feature_maps():
    """Filters with a kernel of one pass the input's rank on; a dead filter and a constant one have ranks 0 and 1."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).double()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1)
        model[0].bias[:] = torch.tensor([5.0, -1.0, 1.0])
    assert HRank().rank(task(model, shape=(1, 6, 6)))["0"].tolist() == [6.0, 0.0, 1.0]


def test_chip_is_the_fall_of_the_nuclear_norm():
    maps = torch.randn(4, 9, dtype=torch.float64)
    expected = []
    for i in range(4):
        without = maps.clone()
        without[i] = 0
        expected.append(torch.linalg.matrix_norm(maps, "nuc") - torch.linalg.matrix_norm(without, "nuc"))
    torch.testing.assert_close(independence(maps), torch.stack(expected))
    model = named("conv bn relu chain").model()
    given = task(model, shape=(3, 6, 6))
    seen = torch.cat([model[:3](b.call.args[0]) for b in given.batches]).detach()
    name = next(iter(given.graph.groups))
    mean = torch.stack([independence(m.flatten(1)) for m in seen]).mean(0)
    torch.testing.assert_close(CHIP().rank(given)[name], mean)


def test_fpgm_is_the_summed_distance_to_all_filters():
    given = task(chain())
    rows = given.model[0].weight.detach().numpy()
    expected = [np.linalg.norm(rows - row, axis=1).sum() for row in rows]
    np.testing.assert_allclose(FPGM().rank(given)["0"].numpy(), expected)


def test_lamp_divides_by_all_that_is_no_smaller():
    assert relative(torch.tensor([3.0, 1.0, 4.0])).tolist() == pytest.approx([3 / 7, 1 / 8, 1.0])


def oracle_groups(model: nn.Module, example: torch.Tensor, module: nn.Module):
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    return graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, list(range(module.out_channels)))


@pytest.mark.parametrize("name", ["conv bn relu chain", "residual"])
def test_scores_agree_with_torch_pruning(name):
    """Magnitude, LAMP and batch-norm scale, on the layers that produce the nodes."""
    case = named(name)
    model = case.model()
    with torch.random.fork_rng():
        found = mipp.inspect(model, case.batch(2))
    given = Task(model, found.graph, cost_of(found.graph), read(mipp.Calibration(case.batches()), None))
    for group in given.graph.groups.values():
        module = model.get_submodule(group.producers[0])
        items = list(oracle_groups(model, case.batch(2), module))
        makes = [i for i in items if i.dep.handler == torch_pruning.prune_conv_out_channels]
        for method, oracle in (
            (L1(), torch_pruning.importance.MagnitudeImportance(p=1, group_reduction="sum", normalizer=None)),
            (LAMP(), torch_pruning.importance.LAMPImportance(p=2, group_reduction="sum")),
            (BatchNormScale(), torch_pruning.importance.BNScaleImportance(normalizer=None)),
        ):
            chosen = items if isinstance(method, BatchNormScale) else makes
            expected = oracle(chosen)
            if expected is not None and len(expected):
                torch.testing.assert_close(method.rank(given)[group.name], expected.double(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("score", ["l1", "taylor", "hessian"])
def test_what_torch_pruning_keeps_becomes_a_plan_for_the_very_same_network(score):
    torch.manual_seed(0)
    model = DigitsCNN().eval()
    for vector in (p for p in model.parameters() if p.ndim == 1):
        nn.init.uniform_(vector, 0.5, 1.5)  # as after training: by these the nodes are recognised
    data = list(load("digits", "train").batches(64, limit=64, generator=torch.Generator().manual_seed(0)))
    found = mipp.inspect(model, data[0][0])
    given = Task(model, found.graph, cost_of(found.graph), read(mipp.Calibration(data), None))
    method, budget = TorchPruning(score), mipp.Budget(macs=0.5)
    cut = mipp.apply(method.plan(given, budget), model)
    torch.testing.assert_close(cut(data[0][0]), method.smaller(given, budget)(data[0][0]))
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())
