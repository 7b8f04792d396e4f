"""The worth of a group, against a copy with other weights and least squares on samples."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mipp
from mipp.data.calibration import Calibration, read
from mipp.graph.program import execute
from mipp.methods import MIPP
from mipp.methods.mipp.carried import measured
from mipp.methods.mipp.worth import (
    HALFWAY,
    WHOLLY,
    Asking,
    asking,
    looked_at,
    measure_worth,
    output_distance,
    repair,
    weigh,
)
from mipp.plan.elimination import Elimination
from mipp.plan.task import Task
from mipp.runtime.tensor_store import Memory


class Branches(nn.Module):
    """Two branches alike, of which the outputs feel one a hundred times as much."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loud, self.soft = (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)) for _ in range(2))
        self.soft.load_state_dict(self.loud.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.loud(x[:, :8]), 0.01 * self.soft(x[:, 8:])], 1).sum(1)


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down, self.head = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)
        self.last = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(self.last(x))


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(5)), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


DATA = torch.randn(256, 16, generator=torch.Generator().manual_seed(1))


def task_of(model: nn.Module, data: Tensor, size: int = 64) -> Task:
    found = mipp.inspect(model, data[:4])
    return Task(model, found.graph, found.cost, read(Calibration(list(data.split(size))), None))


def test_what_the_outputs_feel_more_keeps_more_nodes():
    model = Branches().eval()
    for worth, at_least in (("nats", 0), ("outputs", 5)):
        widths = mipp.prune(model, [DATA], mipp.Budget(nodes=0.5), MIPP(worth=worth), progress=False).plan.widths
        assert widths["loud.0"] - widths["soft.0"] >= at_least
        assert worth == "outputs" or abs(widths["loud.0"] - widths["soft.0"]) <= 2


def test_outputs_move_as_those_of_a_copy_with_the_weights_of_least_squares():
    model = Branches().eval()
    task = task_of(model, DATA)
    order = tuple(range(16))
    curve = Elimination(order, (0.0, *order))
    worth = measure_worth(task, measured(task, 64).statistics, {"loud.0": curve})
    kept = list(order[8:])
    with torch.no_grad():
        hidden = F.relu(model.loud[0](DATA[:, :8])).double()
        weight = model.loud[2].weight.double()
        second = hidden.mT @ hidden / len(hidden)
        ridge = 1e-3 * second.diagonal().mean() * torch.eye(8, dtype=torch.float64)
        other = copy.deepcopy(model)
        other.loud[2].weight.zero_()
        solved = torch.linalg.solve(second[kept][:, kept] + ridge, second[kept] @ weight.mT).mT
        other.loud[2].weight[:, kept] = solved.float()
        found, dense = other(DATA[:8]), model(DATA[:8])
        error = (found - dense).square().mean() / dense.var(correction=0)
        divergence = F.kl_div(found.log_softmax(1), dense.log_softmax(1), reduction="batchmean", log_target=True)
    assert worth["loud.0"][0] == 8
    assert worth["loud.0"][1] == pytest.approx(float(error + divergence), rel=1e-3)


@pytest.mark.parametrize("size", [256, 100, 7])
def test_the_same_samples_are_looked_at_however_they_are_batched(size):
    torch.manual_seed(0)
    model, data = Chain().eval(), DATA[:, :8]
    curve = Elimination(tuple(range(8)), (0.0, *range(8)))

    def worth(size):
        task = task_of(model, data, size)
        return measure_worth(task, measured(task, 64).statistics, {"layers.2.0": curve}, HALFWAY)["layers.2.0"]

    assert worth(size) == pytest.approx(worth(32), rel=1e-4)


def test_texts_of_several_lengths_are_looked_at_together():
    torch.manual_seed(0)
    model, lengths = PreNorm().eval(), (5, 9, 3)
    data = [torch.randn(8, n, 8) for n in lengths]
    found = mipp.inspect(model, data[0])
    task = Task(model, found.graph, found.cost, read(Calibration(data), None))
    curve = Elimination(tuple(range(16)), (0.0, *range(16)))
    statistics, ask = measured(task, 64).statistics, Asking(every=1)
    worth = measure_worth(task, statistics, {"up": curve}, ask)["up"][1]
    small = copy.deepcopy(model)
    site = next(site for site in found.graph.sites if site.weight == "down.weight")
    with torch.no_grad():
        small.down.weight.copy_(repair(found.graph.groups["up"], site, statistics[site.op], curve.order[8:]))
        outputs, dense = (torch.cat([one(x).flatten(0, 1) for x in data]) for one in (small, model))
    error = (outputs - dense).square().mean() / dense.var(correction=0)
    logs = outputs.log_softmax(1), dense.log_softmax(1)
    assert worth == pytest.approx(float(error + F.kl_div(*logs, reduction="batchmean", log_target=True)), rel=1e-4)


def test_weighed_curves_pass_through_what_was_measured():
    curves = {name: Elimination((0, 1, 2, 3), (0.0, 1.0, 2.0, 4.0, 8.0)) for name in "abc"}
    weighed = weigh(curves, {"a": (2, 0.5), "b": (2, 8.0)})
    assert weighed["a"].loss == (0.0, 0.25, 0.5, 1.0, 2.0)
    assert weighed["b"].loss[2] == 8.0
    assert weighed["c"].loss[2] == pytest.approx(2.0)  # the geometric mean of the others


def test_outputs_believed_halfway_weigh_by_the_geometric_mean():
    curves = {name: Elimination((0, 1), (0.0, nats, 2 * nats)) for name, nats in (("a", 1.0), ("b", 4.0))}
    worth = {"a": (1, 9.0), "b": (1, 1.0)}
    whole, half, none = ({n: c.loss[1] for n, c in weigh(curves, worth, by).items()} for by in (1.0, 0.5, 0.0))
    assert whole == {"a": 9.0, "b": 1.0}
    assert half == {"a": 3.0, "b": 2.0}
    assert none == {"a": 1.0, "b": 4.0}


@pytest.mark.parametrize("worth", ["auto", "outputs", "nats"])
@pytest.mark.parametrize("kind", [PreNorm, Chain, Branches])
def test_worth_is_measured_on_request_in_chains_and_where_streams_are_normalised(kind, worth, monkeypatch):
    torch.manual_seed(0)
    model, asked = kind().eval(), []
    monkeypatch.setattr("mipp.methods.mipp.mipp.measure_worth", lambda *given: asked.append(given) or {})
    data = [torch.randn(64, 16 if kind is Branches else 8)]
    expected = {PreNorm: WHOLLY, Chain: HALFWAY, Branches: None}
    assert asking(mipp.inspect(model, data[0]).graph) == expected[kind]
    mipp.prune(model, data, mipp.Budget(nodes=0.5), MIPP(worth=worth), progress=False)
    assert bool(asked) == (worth == "outputs" or (worth == "auto" and kind is not Branches))


def test_convolutions_of_groups_are_mended_by_least_squares_on_their_patches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten()).eval()
    images = torch.randn(64, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    task, order = task_of(model, images), (0, 3, 1, 2)  # a node is a channel of each half
    moved = measure_worth(task, measured(task, 64).statistics, {"0": Elimination(order, (0.0, *map(float, order)))})[
        "0"
    ]
    other = copy.deepcopy(model)
    with torch.no_grad():
        hidden = model[:2](images).double()
        for half in range(2):
            rows = F.unfold(hidden[:, 4 * half : 4 * half + 4], 3).transpose(1, 2).flatten(0, 1)
            places = torch.tensor([9 * channel + place for channel in (1, 2) for place in range(9)])
            weight, own = (net[2].weight[3 * half : 3 * half + 3].flatten(1) for net in (model, other))
            second = rows.mT @ rows / len(rows)
            ridge = 1e-3 * second.diagonal().mean() * torch.eye(len(places), dtype=torch.float64)
            solved = torch.linalg.solve(second[places][:, places] + ridge, second[places] @ weight.double().mT).mT
            own.zero_()[:, places] = solved.float()
        found, dense = other(images[:2]), model(images[:2])
        error = (found - dense).square().mean() / dense.var(correction=0)
        divergence = F.kl_div(found.log_softmax(1), dense.log_softmax(1), reduction="batchmean", log_target=True)
    assert moved == (2, pytest.approx(float(error + divergence), rel=1e-3))


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 8, 3), lambda: nn.Conv2d(3, 8, 3, groups=1, padding=1)])
def test_convolutions_and_their_readers_can_be_weighed(make):
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 4, 3)).eval()
    images = torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    result = mipp.prune(model, [images], mipp.Budget(macs=0.5), MIPP(worth="outputs"), progress=False)
    assert result.report.to_dict()
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    with pytest.raises(mipp.MippError, match="worth"):
        MIPP(worth="loud")


def test_what_is_in_front_of_a_group_is_computed_once(monkeypatch):
    torch.manual_seed(0)
    task, spans = task_of(Chain().eval(), torch.randn(64, 8)), []
    curves = {name: Elimination(tuple(range(8)), tuple(map(float, range(9)))) for name in reversed(task.graph.groups)}
    statistics = measured(task, 64).statistics

    def counted(program, values, bound, span, keep=()):
        spans.append(span)
        execute(program, values, bound, span, keep)

    monkeypatch.setattr("mipp.methods.mipp.worth.execute", counted)
    assert list(measure_worth(task, statistics, curves)) == list(curves)
    before = [span for span in spans if span[1] < len(task.graph.program.ops)]
    assert len(before) == len(curves) == 5
    assert [start for start, _ in before[1:]] == [stop for _, stop in before[:-1]]


@pytest.mark.parametrize(("kind", "samples"), [(Chain, 8), (PreNorm, 2)])
def test_one_in_32_samples_is_looked_at_and_one_in_eight_of_chains(kind, samples, monkeypatch):
    torch.manual_seed(0)
    task, sizes = task_of(kind().eval(), torch.randn(64, 8)), []

    def sized(program, values, bound, span, keep=()):
        sizes.extend(len(values[index]) for index in program.inputs if index in values)
        execute(program, values, bound, span, keep)

    monkeypatch.setattr("mipp.methods.mipp.worth.execute", sized)
    curves = {name: Elimination(tuple(range(8)), tuple(map(float, range(9)))) for name in list(task.graph.groups)[:1]}
    measure_worth(task, measured(task, 64).statistics, curves, asking(task.graph))
    assert set(sizes) == {samples}


def test_halfway_the_unit_of_the_outputs_does_not_matter():
    torch.manual_seed(0)
    model, loud = Chain().eval(), Chain().eval()
    loud.load_state_dict(model.state_dict())
    with torch.no_grad():
        loud.layers[-1].weight *= 100
        loud.layers[-1].bias *= 100

    def moved(network, ask):
        task = task_of(network, torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
        last = list(task.graph.groups)[-1]
        curve = {last: Elimination(tuple(range(8)), tuple(map(float, range(9))))}
        return measure_worth(task, measured(task, 64).statistics, curve, ask)[last][1]

    assert moved(loud, HALFWAY) == pytest.approx(moved(model, HALFWAY), rel=1e-3)
    assert moved(loud, WHOLLY) > 2 * moved(model, WHOLLY)


def test_processes_are_averaged_and_one_that_cannot_measure_stops_all(monkeypatch):
    task = task_of(Branches().eval(), DATA)
    curve = {"loud.0": Elimination(tuple(range(16)), tuple(map(float, range(17))))}
    statistics = measured(task, 64).statistics
    alone = measure_worth(task, statistics, curve)["loud.0"][1]
    task.finished.clear()
    monkeypatch.setattr("mipp.methods.mipp.worth.gather", lambda own: [own, {"loud.0": 3 * own["loud.0"]}])
    assert measure_worth(task, statistics, curve)["loud.0"][1] == pytest.approx(2 * alone)
    task.finished.clear()
    monkeypatch.setattr("mipp.methods.mipp.worth.gather", lambda own: [own, "another path"])
    with pytest.raises(mipp.UnsupportedModelError, match="another path"):
        measure_worth(task, statistics, curve)


def test_a_budget_of_widths_alone_needs_no_worth(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr("mipp.methods.mipp.mipp.measure_worth", lambda *given: asked.append(given) or {})
    torch.manual_seed(0)
    mipp.prune(PreNorm().eval(), [torch.randn(64, 8)], mipp.Budget(widths={"up": 5}), progress=False)
    assert not asked


def test_where_worth_cannot_be_measured_nats_count_alike_and_the_report_says_so(monkeypatch):
    def fails(*_: object) -> None:
        raise mipp.UnsupportedModelError("no op by op.")

    monkeypatch.setattr("mipp.methods.mipp.mipp.measure_worth", fails)
    torch.manual_seed(0)
    model, data = PreNorm().eval(), [torch.randn(64, 8)]
    found = mipp.prune(model, data, mipp.Budget(nodes=0.5), progress=False)
    assert any("counted alike" in note and "no op by op" in note for note in found.report.notes)
    with pytest.raises(mipp.UnsupportedModelError, match="no op by op"):
        mipp.prune(model, data, mipp.Budget(nodes=0.5), MIPP(worth="outputs"), progress=False)


@pytest.mark.parametrize("make", [lambda: nn.Linear(12, 5), lambda: nn.Conv2d(12, 6, 3, groups=2)])
def test_where_nodes_count_as_independent_each_makes_up_for_the_ridge_alone(make):
    torch.manual_seed(0)
    first: nn.Module = nn.Linear(4, 12) if isinstance(layer := make(), nn.Linear) else nn.Conv2d(4, 12, 1)
    task = task_of(nn.Sequential(first, nn.ReLU(), layer), torch.randn(40, 4, *(3, 3)[: layer.weight.ndim - 2]))
    task = replace(task, memory=Memory(100))
    group, kept = task.graph.groups["0"], (0, 2, 3)
    (site,) = task.graph.readers(group)
    statistics = measured(task, 64).statistics[site.op]
    features = site.features_of(group, layer.weight)
    found = repair(group, site, statistics, kept).flatten(1).unflatten(0, (site.groups, -1))
    weight = layer.weight.detach().flatten(1).unflatten(0, (site.groups, -1))
    for own, made, moments in zip(weight, found, statistics.inputs, strict=True):
        expected = torch.zeros_like(own)
        for node in kept:
            (place, second), places = moments.raw[0], features[node]
            second = second[int((place[:, 0] == places[0]).nonzero())]
            ridge = 1e-3 * second.diagonal().mean() * torch.eye(len(places), dtype=torch.float64)
            expected[:, places] = torch.linalg.solve(second + ridge, second @ own[:, places].double().mT).mT.float()
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


class Sequences(nn.Module):
    """Logits for each of so many rows of a sample."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.net = rows, nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, None].expand(-1, self.rows, -1))


@pytest.mark.parametrize(("rows", "samples", "expected"), [(1, 8, 2), (63, 8, 2), (64, 8, 1), (64, 96, 3), (1, 96, 3)])
def test_one_sample_is_looked_at_where_its_outputs_have_many_rows(rows, samples, expected):
    task = task_of(Sequences(rows).eval(), torch.randn(samples, 8))
    assert looked_at(task, Asking(), samples) == expected


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 40_000), (2, 2, 70_000)])
def test_the_distance_of_logits_is_their_error_and_their_divergence_however_long_rows_are(shape):
    target = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    output = target + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found, wanted = output.double(), target.double()
    error = (found - wanted).square().mean() / wanted.var(correction=0)
    divergence = (wanted.softmax(-1) * (wanted.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
    assert output_distance([output], [target]) == pytest.approx(float(error + divergence), rel=1e-4)
    assert output_distance([output], [target], logits=False) == pytest.approx(float(error), rel=1e-4)
