"""MIPP with every estimator: presets, targets, directions, what resumes, and what is refused."""

import dataclasses
import json
import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from networks import Small
from tasks import kept_by, relu_chain
from torch import nn

import mipp
from mipp import zoo
from mipp.data.calibration import Calibration, read
from mipp.estimators import MLP, Gaussian, GaussianInformation, Surrogate
from mipp.graph.builder import Draft
from mipp.methods import (
    MIPP,
)
from mipp.plan.cost import cost_of

TINY = MLP(hidden=(16,), initial_iterations=20, ordering_iterations=5, retrain_iterations=8)


ESTIMATORS = [Gaussian(), Gaussian(ranks=True), Gaussian(basis=3), Surrogate(hidden=(16,), iterations=40), TINY]


every = pytest.mark.parametrize("estimator", ESTIMATORS, ids=["gaussian", "ranks", "basis", "surrogate", "mlp"])


def images(number=150):
    return torch.randn(number, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def pruned(method, model=None, data=None, budget=None, **options):
    return mipp.prune(
        model or Small(),
        [images() if data is None else data],
        budget,
        method,
        compensate=False,
        progress=False,
        **options,
    )


class TestPresets:
    def test_the_settings_are_those_of_the_paper(self):
        method = MIPP.paper()
        assert method.estimator == MLP(
            num_estimators=3,
            hidden=(256, 256),
            initial_iterations=1500,
            ordering_iterations=35,
            retrain_iterations=150,
            critical="t",
            loss_split="heldout",
            reference="fixed",
        )
        assert (method.order, method.collapse, method.direction, method.activation) == ("mi", "l1", "backward", "post")
        assert MIPP.paper_v2().estimator.retrain_iterations == 100 * 20

    def test_every_field_can_be_set_and_read(self):
        changed = {
            "num_estimators": 5,
            "hidden": (32,),
            "initial_iterations": 10,
            "ordering_iterations": 11,
            "retrain_iterations": 12,
            "confidence": 0.875,
            "critical": "z",
            "loss_split": "train",
            "reference": "running",
            "collapse": "std",
            "direction": "forward",
            "activation": "pre",
        }
        for preset in (MIPP.paper, MIPP.paper_v2):
            method = preset(**changed)
            assert {name: getattr(method, name, getattr(method.estimator, name, None)) for name in changed} == changed
            assert eval(repr(method), {"MIPP": MIPP, "MLP": MLP}) == method

    def test_what_is_no_field_is_refused_with_the_names_there_are(self):
        with pytest.raises(mipp.MippError, match=r"iterationen.*retrain_iterations"):
            MIPP.paper(iterationen=3)

    def test_the_schedule_halves_the_doubt(self):
        schedule = mipp.confidence_schedule(20)
        assert schedule[:3] == (0.5, 0.75, 0.875)
        assert len(schedule) == 20
        assert schedule[-1] == 1 - 2**-20
        for confidence in schedule:
            MIPP.paper(confidence=confidence)


class TestPruning:
    @every
    @pytest.mark.parametrize("collapse", [pytest.param(None, marks=pytest.mark.slow), "l1"])
    def test_the_test_decides_and_the_report_says_what_was_lost(self, estimator, collapse):
        method = MIPP(estimator, "mi", collapse, 0.9, activation="post", positions=4)
        result = pruned(method, _seeded())
        for line in result.report.groups:
            assert 1 <= line.kept <= line.size
            assert line.nats >= 0
            assert np.isfinite(line.total_nats)
        assert result.model(images(2)).shape == (2, 3)

    @every
    def test_a_budget_holds_too(self, estimator):
        result = pruned(MIPP(estimator, "mi", "l1", positions=4), budget=mipp.Budget(nodes=0.6))
        assert result.report.after.nodes <= 0.6 * result.report.before.nodes

    @pytest.mark.parametrize("fields", [{"estimator": "surrogate"}, {"estimator": "mlp"}])
    def test_names_stand_for_the_default_settings(self, fields, monkeypatch):
        seen = []
        for kind in (Surrogate, MLP):
            monkeypatch.setattr(kind, "__call__", lambda self, samples, g: seen.append(self) or Gaussian()(samples, g))
        pruned(MIPP(confidence=0.9, **fields))
        assert set(seen) == {{"surrogate": Surrogate(), "mlp": MLP()}[fields["estimator"]]}

    def test_untrained_and_purely_linear_networks_can_be_pruned_with_the_presets(self):
        """Nodes of a linear layer have one value per sample; `collapse` leaves it as it is."""
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        data = torch.randn(200, 4)
        plans = {
            collapse: pruned(MIPP(Gaussian(), "mi", collapse, 0.9, activation="post"), model, data).plan.kept
            for collapse in (None, "l1", "l2", "mean", "std")
        }
        assert len({tuple(plan["0"]) for plan in plans.values()}) == 1

    def test_higher_confidence_keeps_no_more(self):
        sizes = [
            sum(pruned(MIPP(Gaussian(), "mi", "l1", c, activation="post"), _seeded()).plan.widths.values())
            for c in mipp.confidence_schedule(4)
        ]
        assert sizes == sorted(sizes, reverse=True)

    def test_with_a_share_the_choice_does_not_depend_on_the_number_of_samples(self):
        """Two nodes of six carry nearly everything; the others, a hundredth each, are significant in the end."""
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
        with torch.no_grad():
            for layer in (model[0], model[2]):
                layer.weight.copy_(torch.eye(6))
                layer.bias.zero_()
            model[2].weight[2:, 2:] = 0
            model[2].weight[0, 2:] = 0.1
        for number in (500, 50_000):
            data = torch.randn(number, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            method = MIPP(confidence=0.95, noise=0.5)
            assert pruned(dataclasses.replace(method, share=0.05), model, data).plan.kept["0"] == (0, 1)
            without = pruned(method, model, data).plan.kept["0"]
        assert without == (0, 1, 2, 3, 4, 5)

    def test_a_share_is_less_than_all(self):
        with pytest.raises(mipp.MippError, match=r"share=1\.0.*\[0, 1\)"):
            MIPP(confidence=0.9, share=1.0)

    def test_an_estimate_below_zero_is_a_warning_and_a_note(self, monkeypatch):
        monkeypatch.setattr(GaussianInformation, "total", lambda self: -0.5)
        with pytest.warns(UserWarning, match=r"group '\w+'.*-[01]\.[05]0 nats.*less than none.*Pass more samples"):
            result = pruned(MIPP(Gaussian(), "mi", "l1", 0.9), _seeded())
        assert sum("less than none" in warning for warning in result.report.warnings) == len(result.report.groups)

    def test_forward_takes_all_nodes_downstream_as_target(self):
        """Nodes 0-2 speak only to nodes of the second layer that nothing listens to: backward they go."""
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).double()
        with torch.no_grad():
            model[2].weight[:2, :3] = 0
            model[2].weight[2:, 3:] = 0
            model[2].weight[2:] *= 10
            model[4].weight[:, 2:] = 0
        data = torch.randn(256, 4, dtype=torch.float64)
        method = MIPP(confidence=0.95, noise=0.1)
        backward = pruned(method, model, data).plan.kept
        forward = pruned(dataclasses.replace(method, direction="forward"), model, data).plan.kept
        assert not {0, 1, 2} & set(backward["0"])
        assert {0, 1, 2} & set(forward["0"])

    def test_dead_filters_and_constant_nodes_go(self):
        model = _seeded()
        with torch.no_grad():
            model.inner.weight[1] = 0
            model.inner.bias[1] = 0.7  # constant, not silent
            model.fc1.weight[2] = 0
        for estimator in (Gaussian(), Surrogate(hidden=(32,), iterations=200)):
            kept = pruned(MIPP(estimator, "mi", "l1", 0.95, activation="post", margin=0.05), model).plan.kept
            assert 1 not in kept["inner"]
            assert 2 not in kept["fc1"]


def _seeded():
    torch.manual_seed(1)
    return Small().eval()


class TestInformation:
    def test_it_is_what_the_report_says_of_the_dense_model(self):
        model, data = _seeded(), images()
        found = mipp.information(model, [data])
        report = pruned(MIPP(confidence=0.9, direction="forward"), model, data).report
        assert found == pytest.approx({g.name: g.total_nats for g in report.groups})

    def test_its_notes_are_told(self, monkeypatch, caplog):
        monkeypatch.setattr(GaussianInformation, "total", lambda self: -0.5)
        with pytest.warns(UserWarning, match="less than none") as told, caplog.at_level(logging.INFO):
            mipp.information(_seeded(), [images()], MIPP(Gaussian(ranks=True)))
        assert {warning.filename for warning in told} == {__file__}
        assert "less than none" in caplog.text

    def test_pruning_does_not_raise_it(self):
        model, data = _seeded(), images()
        before = mipp.information(model, [data])
        small = pruned(MIPP(), model, data, mipp.Budget(nodes=0.5)).model
        after = mipp.information(small, [data])
        assert after.keys() <= before.keys()
        assert sum(after.values()) < sum(before.values())


class TestResuming:
    def test_finished_groups_are_not_done_again_and_the_result_is_the_same(self, tmp_path, monkeypatch):
        method = MIPP(TINY, "mi", "l1", 0.9, activation="post")
        whole = pruned(method, _seeded())
        done, call = [], MLP.__call__

        def failing(self, samples, generator):
            done.append(len(samples.blocks))
            if len(done) == 3:
                raise KeyboardInterrupt
            return call(self, samples, generator)

        monkeypatch.setattr(MLP, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            pruned(method, _seeded(), checkpoint=tmp_path)
        head, *steps = (tmp_path / "journal.jsonl").read_text().splitlines()
        assert "identity" in json.loads(head)["entry"]
        assert 1 <= len(steps) < len(whole.plan.groups)
        rest = []
        monkeypatch.setattr(MLP, "__call__", lambda s, x, g: rest.append(1) or call(s, x, g))
        resumed = pruned(method, _seeded(), checkpoint=tmp_path)
        assert resumed.resumed
        assert not whole.resumed
        assert resumed.plan == whole.plan
        calls_of_all = 1 + sum(
            len(mipp.inspect(_seeded(), images(2)).graph.readers(g)) for g in whole.plan.groups.values()
        )
        assert len(rest) < calls_of_all

    def test_a_folder_of_another_run_is_refused(self, tmp_path):
        pruned(MIPP(confidence=0.9), _seeded(), checkpoint=tmp_path)
        with pytest.raises(mipp.PlanMismatchError, match="belongs to another run"):
            pruned(MIPP(confidence=0.8), _seeded(), checkpoint=tmp_path)


class TestRefusals:
    @pytest.mark.parametrize(
        "fields",
        [
            {"estimator": "oracle"},
            {"collapse": "max"},
            {"direction": "sideways"},
            {"activation": "both"},
            {"confidence": 0.49},
            {"confidence": 1.0},
            {"margin": -0.1},
            {"noise": -1.0},
        ],
    )
    def test_fields_out_of_range(self, fields):
        with pytest.raises(mipp.MippError, match=next(iter(fields))):
            MIPP(**fields)

    def test_too_few_samples_for_a_test_name_the_group_and_what_suffices(self):
        with pytest.raises(mipp.CalibrationError, match=r"Group 'fc1'.*7 samples.*at least"):
            pruned(MIPP(Gaussian(), "mi", "l1", 0.9, noise=0), data=images(7))

    def test_progress_shows_layer_and_node(self):
        from mipp.methods import Task

        batches = read(Calibration([images()]), None)
        graph = Draft(_seeded(), batches[0].call).graph()
        seen = {}

        def progress(items, what, total=None):
            seen[what] = list(items)
            return seen[what]

        MIPP(confidence=0.9).plan(Task(_seeded(), graph, cost_of(graph), batches, progress=progress), mipp.Budget())
        shown = [what for what in seen if what.startswith("selection: fc1 (")]
        assert len(shown) == 1
        assert len(seen[shown[0]]) == 6


def test_a_layer_that_carries_little_is_not_emptied(monkeypatch):
    """Ten logits take in less than a hundred nodes do, so that the last hidden layer has the cheapest nodes in nats."""
    torch.manual_seed(0)
    model, images = zoo.LeNet5(), torch.rand(64, 1, 28, 28)
    budget = mipp.Budget(nodes=0.1, min_keep=0)

    def collapsed(worth):
        method = MIPP(steps=1, worth=worth)
        return mipp.prune(model, [images], budget, method, compensate=False, progress=False).plan.collapsed

    assert collapsed("nats") == collapsed("auto") == ()
    monkeypatch.setattr("mipp.plan.elimination._SCARCITY", 0.0)
    assert collapsed("nats") == ("fc2",)
    assert collapsed("auto")


CHAIN, RESIDUAL = (relu_chain, (4,)), (zoo.DigitsCNN, (1, 8, 8))


@pytest.mark.parametrize(
    ("network", "method", "budget", "noise"),
    [
        (CHAIN, MIPP(), mipp.Budget(nodes=0.5), 10.0),
        (CHAIN, MIPP(noise=0.5), mipp.Budget(nodes=0.5), 0.5),
        (CHAIN, MIPP(confidence=0.9), None, 1.0),
        (RESIDUAL, MIPP(), mipp.Budget(nodes=0.5), 1.0),
    ],
)
def test_the_noise_is_ten_where_a_budget_is_to_be_met_in_a_chain(network, method, budget, noise):
    make, shape = network
    model = make().double()
    data = [torch.rand(256, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    plan = mipp.prune(model, data, budget, method, compensate=False, progress=False).plan
    assert f"noise={noise}" in plan.method


class TestSteps:
    """On the way to a budget, what a layer carries is measured towards the nodes that are to stay behind it."""

    def widths(self, **fields):
        torch.manual_seed(0)
        sizes = (64, 50, 100, 100, 10)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        images = zoo.load("digits", "train").normalise(slice(0, 256)).flatten(1)
        method, budget = MIPP(worth="nats", **fields), mipp.Budget(nodes=0.1)
        result = mipp.prune(nn.Sequential(*layers[:-1]), [images], budget, method, compensate=False, progress=False)
        return list(result.plan.widths.values())

    def test_a_layer_in_front_of_one_that_shrinks_needs_fewer_nodes(self):
        once, often = self.widths(steps=1), self.widths(steps=4)
        assert sum(often) == sum(once) == 25
        assert often[1] < once[1]
        assert often[2] > 2 * once[2]

    def test_inside_of_residual_blocks_no_target_shrinks_and_they_change_nothing(self):
        torch.manual_seed(0)
        model, images, budget = zoo.resnet20(), torch.rand(16, 3, 32, 32), mipp.Budget(macs=0.4)
        options = {"exclude": ("conv1", "layer*.conv2"), "compensate": False, "progress": False}
        once, often = (mipp.prune(model, [images], budget, MIPP(steps=n), **options).plan for n in (1, 4))
        assert once.widths == often.widths

    def test_forward_takes_all_nodes_as_target_at_every_step(self):
        assert self.widths(steps=4, direction="forward") == self.widths(steps=1, direction="forward")

    @pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.75])
    def test_limits_fall_in_equal_ratios(self, share):
        cost = cost_of(Draft(zoo.LeNet5(), read(Calibration([torch.rand(2, 1, 28, 28)]), None)[0].call).graph())
        budget = mipp.Budget(params=20_000, macs=0.5, nodes=10**6, min_keep=0, widths={"fc1": 7})
        eased = budget.ease(cost, share)
        limits = {"params": 20_000.0, "macs": 0.5 * cost.dense("macs"), "nodes": cost.dense("nodes")}
        expected = {name: cost.dense(name) ** (1 - share) * limit**share for name, limit in limits.items()}
        assert eased.limits(cost) == pytest.approx(expected)
        assert (eased.min_keep, eased.widths) == (0, {"fc1": 7})
        assert budget.ease(cost, 1) == budget


@pytest.mark.parametrize("order", ["greedy", "mi"])
def test_the_target_is_what_the_kept_nodes_downstream_read(order):
    """Nodes 0-2 of the first layer speak only to nodes 2 and 3 of the second, which nothing listens to."""
    model = relu_chain()
    with torch.no_grad():
        model[2].weight[:2, :3] = 0
        model[2].weight[2:, 3:] = 0
        model[2].weight[2:] *= 100  # loud, but unheard
        model[4].weight[:, 2:] = 0
    chosen = kept_by(model, MIPP(order=order, noise=1.0), widths={"0": 3, "2": 2})
    assert chosen == {"0": (3, 4, 5), "2": (0, 1)}


def test_the_residual_stream_sets_the_scale():
    """The same branch matters less where it is added to a loud stream: its nodes go first."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.quiet = nn.Linear(4, 8), nn.Linear(4, 8)
            self.up_loud, self.up_quiet = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = 100 * x + self.up_loud(self.loud(x).relu())
            return first / 100 + x + self.up_quiet(self.quiet(x).relu())

    model = Block().double()
    with torch.no_grad():
        for a, b in ((model.loud, model.quiet), (model.up_loud, model.up_quiet)):
            b.weight.copy_(a.weight)
            b.bias.copy_(a.bias)
    chosen = kept_by(model, MIPP(), params=0.7)
    assert len(chosen["loud"]) < len(chosen["quiet"])


def test_mipp_without_a_budget_needs_a_confidence_and_then_drops_what_says_nothing():
    model = relu_chain()
    with torch.no_grad():
        model[2].weight[:, 0] = 0
    with pytest.raises(mipp.MissingRequirementError, match="confidence"):
        kept_by(model, MIPP())
    assert 0 not in kept_by(model, MIPP(confidence=0.9))["0"]


def test_widths_that_a_test_decides_are_rounded_up_and_alike_where_the_budget_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[2].weight[:, :5] = 0
    method = MIPP(confidence=0.95, margin=0.001)
    usual, rounded, alike = (kept_by(model, method, **options) for options in ({}, {"round_to": 4}, {"uniform": True}))
    assert len(usual["0"]) % 4
    assert [len(nodes) for nodes in rounded.values()] == [4 * -(-len(nodes) // 4) for nodes in usual.values()]
    assert set(usual["2"]) <= set(rounded["2"])
    assert len(alike["0"]) == len(alike["2"]) == max(map(len, usual.values()))


def test_nodes_that_stay_to_round_a_width_up_are_not_counted_as_lost():
    model, data = relu_chain(), [torch.randn(256, 4, dtype=torch.float64)]
    with torch.no_grad():
        model[2].weight[:, 0] = 0
    for options in ({"round_to": 6}, {"uniform": True}):
        plan = mipp.prune(model, data, mipp.Budget(**options), MIPP(confidence=0.9), progress=False).plan
        for name, (lost, whole) in plan.information.items():
            assert 0 <= lost <= whole
            assert lost == 0 or plan.widths[name] < plan.groups[name].size


@pytest.mark.parametrize(
    "fields",
    [
        {"estimator": "oracle"},
        {"order": "best"},
        {"confidence": 0.3},
        {"confidence": 1.0},
        {"noise": -1},
        {"positions": 0},
    ],
)
def test_wrong_fields_are_refused(fields):
    with pytest.raises(mipp.MippError, match=next(iter(fields))):
        MIPP(**fields)
