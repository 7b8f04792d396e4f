"""Defects that a review found, each as the law it broke."""

import copy

import pytest
import torch
from torch import nn

import mipp
from mipp.refit.least_squares import Refit


class Branch(nn.Module):
    """A residual branch behind a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.b(self.a(x).relu()))


def images(count: int = 4) -> list[torch.Tensor]:
    return [torch.randn(8, 3, 6, 6) for _ in range(count)]


def test_a_branch_whose_last_batch_norm_is_zero_gives_finite_weights():
    model = Branch()
    nn.init.zeros_(model.norm.weight)
    result = mipp.prune(model, images(), mipp.Budget(macs=0.5), progress=False)
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_distillation_leaves_a_model_in_train_mode_as_it_was():
    model = Branch().train()
    state = copy.deepcopy(model.state_dict())
    mipp.prune(model, images(9), mipp.Budget(macs=0.5), recover="distill", progress=False)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_distillation_of_a_model_without_gradients_changes_nothing():
    model = Branch().requires_grad_(requires_grad=False)
    result = mipp.prune(model, images(9), mipp.Budget(macs=0.5), recover="distill", progress=False)
    assert not any(p.requires_grad for p in result.model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_gets_the_model_in_evaluation_mode_and_may_change_that(training):
    model, seen = Branch().train(training), []
    before = copy.deepcopy(model.state_dict())

    def evaluate(m):
        seen.append(m.training)
        m(images()[0])
        m.train()
        return 0.0

    result = mipp.prune(model, images(), mipp.Budget(macs=0.5), evaluate=evaluate, progress=False)
    assert seen == [False, False]
    assert model.training is result.model.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_that_fixes_its_dtype_is_proven_in_that_dtype():
    class Casts(Branch):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.float() / 255)

    pictures = [torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)]
    result = mipp.prune(Casts(), pictures, mipp.Budget(macs=0.5), progress=False)
    assert result.report.after.macs < result.report.before.macs


def test_added_biases_lower_the_error():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 24, bias=False), nn.ReLU(), nn.Linear(24, 24, bias=False), nn.ReLU(), nn.Linear(24, 3, bias=False)
    )
    data = torch.randn(512, 6)
    errors = []
    for allow in (False, True):
        options = Refit(allow_bias=allow)
        small = mipp.prune(model, [data], mipp.Budget(nodes=0.3), compensate=options, progress=False).model
        missing = (model(data) - small(data)).detach()
        errors.append(float(missing.square().mean()))
    assert errors[1] < errors[0]
    assert float(missing.mean(0).abs().max()) < 1e-4  # the last layer's bias takes the mean


def test_positions_paired_with_fixed_ones_are_frozen():
    class Paired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = torch.cat([x, self.a(x)], 1).chunk(2, 1)
            return self.b(first * second)

    graph = mipp.inspect(Paired(), torch.randn(2, 3))
    assert sum(g.size for g in graph.groups.values()) <= 1
    assert any(f.name == "a" for f in graph.frozen)


def test_a_weight_held_as_a_buffer_is_cut_and_masked():
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 6)
            self.register_buffer("w", torch.randn(2, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.a(x).relu(), self.w)

    result = mipp.prune(Held(), [torch.randn(64, 3)], mipp.Budget(nodes=0.5), progress=False)
    assert result.model.w.shape == (2, 3)


def test_one_tensor_or_dict_is_one_batch():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    for data in (torch.randn(16, 3), {"input": torch.randn(16, 3)}):
        assert mipp.prune(model, mipp.Calibration(data), mipp.Budget(nodes=0.5), progress=False).plan.widths == {"0": 3}


def test_two_limits_blame_the_one_that_cannot_hold():
    with pytest.raises(mipp.InfeasibleBudgetError, match="params"):
        mipp.prune(Branch(), images(), mipp.Budget(params=1, latency_ms=0.99), progress=False)


def test_wrong_refit_options_are_refused():
    for fields in ({"positions": 0}, {"ridge": 0.0}):
        with pytest.raises(mipp.MippError, match="positive"):
            Refit(**fields)


def test_everything_can_be_eliminated_whatever_the_number_of_features():
    """Refreshing the factors must not need a node that is left."""
    from mipp.estimators import GaussianInformation
    from mipp.plan.elimination import backward_elimination

    for nodes, width in ((1, 1), (65, 1), (9, 9), (130, 2)):
        features = torch.randn(4 * nodes * width, nodes * width, dtype=torch.float64)
        weight = torch.randn(nodes * width, 3, dtype=torch.float64)
        xx = features.mT @ features / len(features)
        blocks = torch.arange(nodes * width).reshape(nodes, width)
        noise = torch.ones(3, dtype=torch.float64)
        parts = xx, xx @ weight, weight.mT @ xx @ weight, blocks, noise, len(features)
        total = GaussianInformation(*parts).total()
        elimination = backward_elimination(GaussianInformation(*parts))
        assert sorted(elimination.order) == list(range(nodes))
        assert elimination.loss[-1] == pytest.approx(total, rel=1e-6)


def test_biases_are_added_as_far_as_the_budget_of_parameters_allows():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False)
    )
    data, options = [torch.randn(200, 8)], {"compensate": Refit(allow_bias=True), "progress": False}
    tight = mipp.prune(model, data, mipp.Budget(params=0.5), **options)
    assert tight.report.after.params <= 0.5 * tight.report.before.params
    assert any("left none for a bias of" in note for note in tight.report.notes)
    loose = mipp.prune(model, data, mipp.Budget(params=0.5, nodes=0.3), **options)
    assert loose.model[2].bias is not None
    assert loose.report.after.params <= 0.5 * loose.report.before.params


def test_a_transposed_convolution_gets_a_bias_of_its_outputs():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 5, 2, bias=False))
    options = {"compensate": Refit(allow_bias=True), "progress": False}
    small = mipp.prune(model, [torch.randn(40, 3, 6, 6)], mipp.Budget(nodes=0.5), **options).model
    assert small[2].bias.shape == (5,)


class TiedAutoencoder(nn.Module):
    """Decodes with the transposed weights of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = nn.functional.relu(self.b(nn.functional.relu(self.a(x))))
        decoded = nn.functional.relu(nn.functional.linear(code, self.b.weight.t()))
        return nn.functional.linear(decoded, self.a.weight.t())


def test_a_weight_that_is_read_transposed_as_well_is_not_refitted_and_the_report_says_so():
    torch.manual_seed(0)
    model, data = TiedAutoencoder(), [torch.randn(200, 8)]
    refitted, cut = (
        mipp.prune(model, data, mipp.Budget(widths={"a": 12}), compensate=c, progress=False) for c in (True, False)
    )
    assert torch.equal(refitted.model(data[0]), cut.model(data[0]))
    assert any(note.startswith("Left as cut, as") and " b" in note for note in refitted.report.notes)


def test_a_computed_weight_is_left_as_cut_and_the_report_says_so():
    layers = nn.Linear(6, 16), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(16, 3))
    result = mipp.prune(nn.Sequential(*layers), [torch.randn(60, 6)], mipp.Budget(nodes=0.5), progress=False)
    assert any(note.startswith("Left as cut, as") for note in result.report.notes)


class TokenMixer(nn.Module):
    """A layer over the tokens, for which the channels of the stream are rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Linear(5, 16), nn.Linear(6, 12), nn.Linear(12, 6)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).relu()
        x = x + self.down(self.up(x.transpose(1, 2)).relu()).transpose(1, 2)
        return self.head(x.mean(1))


@pytest.mark.parametrize("budget", [mipp.Budget(nodes=0.6), mipp.Budget(nodes=0.2, min_keep=0)], ids=repr)
def test_a_layer_whose_rows_are_cut_is_refitted_and_distilled(budget):
    torch.manual_seed(0)
    model, data = TokenMixer().eval(), [torch.randn(32, 6, 5) for _ in range(9)]
    assert set(mipp.inspect(model, data[0]).groups) == {"embed", "up"}

    def error(compensate: bool, **options: str) -> float:
        result = mipp.prune(model, data, budget, mipp.methods.L1(), compensate=compensate, progress=False, **options)
        with torch.no_grad():
            return float(sum((result.model(x) - model(x)).square().sum() for x in data))

    cut, refitted = error(False), error(True)
    assert refitted < 0.7 * cut
    assert error(True, recover="distill") <= refitted


def test_an_activation_with_a_single_number_goes_with_any_width():
    model = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 2))
    assert set(mipp.inspect(model, torch.randn(3, 4)).groups) == {"0"}
