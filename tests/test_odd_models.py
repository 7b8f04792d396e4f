"""What models and data do that most do not: pruned right, or told what is wrong."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import Net
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")
HALF = mipp.Budget(nodes=0.5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def halve(model: nn.Module, data, **options) -> mipp.Result:
    return mipp.prune(model, data, HALF, progress=False, **options)


def linear_layers(function, *widths: int) -> nn.Module:
    """A network with the linear layers a, b, c, ..."""
    torch.manual_seed(0)
    return Net(function, **{name: nn.Linear(*pair) for name, pair in zip("abcdef", pairwise(widths), strict=False)})


def squared_error(model: nn.Module, other: nn.Module, calls) -> float:
    with torch.no_grad():
        return sum(float((model(*call) - other(*call)).square().mean()) for call in calls)


# --- values that are no tensors ---------------------------------------------------------------------------------------


def scaled(m, x, t):
    return m.c(F.relu(m.b(F.relu(m.a(x * t)))))


def test_a_number_among_the_inputs_is_that_of_its_batch():
    model = linear_layers(scaled, 6, 32, 32, 3)
    calls = [(normal(64, 6, seed=n), t) for n, t in enumerate((0.1, 3.0, -2.0, 5.0))]
    numbers = halve(model, [(call,) for call in calls])
    tensors = halve(model, [((x, torch.tensor(t)),) for x, t in calls])
    assert squared_error(numbers.model, model, calls) == pytest.approx(squared_error(tensors.model, model, calls), rel=1e-3)
    assert squared_error(numbers.model, model, calls) < 0.5 * squared_error(mipp.apply(numbers.plan, model), model, calls)


def through_numpy(m, x):
    return m.b(F.relu(m.a(x))) * torch.from_numpy(x.detach().numpy().std(1, keepdims=True))


def through_a_list(m, x):
    return m.b(F.relu(m.a(x))) * torch.tensor(x.mean(1, keepdim=True).tolist())


@pytest.mark.parametrize(
    ("function", "reason"),
    [(through_numpy, "makes tensors from values outside of torch"), (through_a_list, "takes a list of numbers out")],
)
def test_what_leaves_torch_in_the_code_is_not_replayed_on_other_batches(function, reason):
    model = linear_layers(function, 6, 32, 3)
    result = halve(model, [normal(64, 6, seed=n) for n in range(3)])
    assert any("Nothing was refitted: the code" in note and reason in note for note in result.report.notes)
    cut = mipp.apply(result.plan, model)
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), cut.parameters(), strict=True))


def test_a_constant_of_the_code_is_no_obstacle():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))) * torch.from_numpy(np.float32([1, 2, 3])), 6, 32, 3)
    assert not any("Nothing was refitted" in note for note in halve(model, [normal(64, 6)]).report.notes)


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [None, lambda model, batch: model(*batch)])
@pytest.mark.parametrize("nodes", [40, 200])
def test_a_graph_is_one_batch_whatever_its_size(nodes, how):
    links = (normal(nodes, nodes) > 1).float() + torch.eye(nodes)
    model = linear_layers(lambda m, x, links: links @ m.b(F.relu(links @ m.a(x))), 6, 16, 3)
    batch = (normal(nodes, 6), links / links.sum(1, keepdim=True))
    result = halve(model, mipp.Calibration([batch if how else (batch,)], forward=how))
    assert result.plan.widths == {"a": 8}
    assert result.model(*batch).shape == (nodes, 3)


def test_a_sparse_graph_is_refused_and_its_dense_twin_makes_a_model_for_both():
    links = (normal(40, 40) > 1).float()
    model = linear_layers(lambda m, x, links: links @ m.b(F.relu(links @ m.a(x))), 6, 16, 3)
    x, few = normal(40, 6), links.to_sparse()
    with pytest.raises(mipp.CalibrationError, match=r"batch 0 holds a sparse tensor .* Pass its to_dense\(\)"):
        halve(model, [((x, few),)])
    small = halve(model, [((x, links),)]).model
    torch.testing.assert_close(small(x, few), small(x, links))


def test_a_mask_may_hide_positions_by_minus_infinity():
    mask = nn.Transformer.generate_square_subsequent_mask(5)

    def attended(m, x):
        h = m.a(x)
        return m.c(h + m.b(F.relu((h @ h.mT + m.mask).softmax(-1) @ h)))

    model = linear_layers(attended, 6, 8, 8, 3)
    model.register_buffer("mask", mask)
    assert halve(model, [normal(8, 5, 6)]).plan.widths
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    assert halve(encoder, [((normal(8, 5, 8), mask),)]).plan.widths
    with pytest.raises(mipp.MippError, match="NaN or infinite values"):
        halve(encoder, [((normal(8, 5, 8) - torch.inf, mask),)])


class Marked(torch.Tensor):
    pass


def test_a_subclass_of_tensor_is_read_as_a_tensor():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
    assert halve(model, [normal(20, 6).as_subclass(Marked)]).plan.widths == {"a": 8}


# --- modules ----------------------------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """Keeps its batch norm in eval mode, and returns nothing from train()."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x))))

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()


def test_train_may_return_nothing():
    result = halve(Frozen(), [normal(20, 6), normal(20, 6)], recover="distill")
    assert result.plan.widths == {"a": 8}


def test_spectral_norm_is_pruned_in_train_mode_as_in_eval_mode():
    spectral = nn.utils.parametrizations.spectral_norm
    torch.manual_seed(0)
    model = nn.Sequential(spectral(nn.Linear(6, 16)), nn.ReLU(), spectral(nn.Linear(16, 8)), nn.ReLU(), nn.Linear(8, 3))
    widths = [halve(model.train(mode), [normal(200, 6)]).plan.widths for mode in (True, False)]
    assert widths[0] == widths[1]
    assert widths[0]


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_tied_weight_is_excluded_by_any_of_its_names(name):
    model = linear_layers(lambda m, x: m.d(F.relu(m.c(F.relu(m.b(F.relu(m.a(x))))))), 6, 8, 8, 8, 3)
    model.c.weight = model.b.weight
    assert "a" in halve(model, [normal(50, 6)]).plan.widths
    with pytest.raises(mipp.UnsupportedModelError, match="excluded by the caller"):
        halve(model, [normal(50, 6)], exclude=[name])


def test_a_module_that_is_used_several_times_has_several_names():
    layer = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(6, 8), layer, nn.ReLU(), layer, nn.Linear(8, 3))
    with pytest.raises(mipp.UnsupportedModelError, match="excluded by the caller"):
        halve(model, [normal(50, 6)], exclude=["3"])


def test_a_scripted_part_is_no_obstacle():
    model = nn.Sequential(nn.Linear(6, 16), torch.jit.script(nn.ReLU()), nn.Linear(16, 3))
    assert halve(model, [normal(50, 6)]).plan.widths == {"0": 8}


def test_a_lazy_layer_is_refused_by_name():
    with pytest.raises(mipp.UnsupportedModelError, match=r"'0\.weight' has no shape yet"):
        halve(nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 3)), [normal(5, 6)])


def test_a_configuration_that_is_a_dict_stays_as_it_is():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
    model.config, model.save_pretrained = {"hidden": 16}, lambda: None
    assert halve(model, [normal(50, 6)]).model.config == {"hidden": 16}


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Forgetful(mipp.methods.Random):
    def plan(self, task, budget):
        return super().plan(task, budget), {"0.weight": task.model.state_dict()["0.weight"]}


def test_a_method_that_leaves_out_some_of_the_weights_it_changes_is_not_believed():
    model = nn.Sequential(Stateful(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(mipp.MippError, match=r"Missing key.*2\.weight.*Return a state dict that holds every tensor"):
        halve(model, [normal(50, 6)], method=Forgetful())


@pytest.mark.parametrize("method", [mipp.methods.MIPP(), mipp.methods.Reinitialised()])
def test_extra_state_is_no_obstacle_to_saving_and_going_on(method, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Stateful(6, 16), nn.ReLU(), nn.Linear(16, 3))
    result = halve(model, [normal(50, 6)], method=method, checkpoint=tmp_path / "notes")
    again = halve(model, [normal(50, 6)], method=method, checkpoint=tmp_path / "notes")
    result.save(tmp_path / "small")
    loaded = mipp.load(tmp_path / "small", model)
    for other in (again.model, loaded):
        assert torch.equal(other(normal(5, 6)), result.model(normal(5, 6)))


# --- types ------------------------------------------------------------------------------------------------------------


class Fourier(nn.Module):
    """A layer between two transforms, with complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.f, self.b = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.w = nn.Parameter(torch.randn(9, dtype=torch.cfloat))

    def forward(self, x):
        h = torch.fft.irfft(torch.fft.rfft(self.a(x)) * self.w, n=16)
        return self.b(F.relu(self.f(h)))


class Mixed(nn.Module):
    """Layers in bfloat16, a norm in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x):
        h = self.norm(self.a(x.to(self.a.weight.dtype)).to(self.norm.weight.dtype))
        return self.b(F.relu(h).to(self.b.weight.dtype)).float()


@pytest.mark.parametrize("kind", [Fourier, Mixed])
def test_every_tensor_is_loaded_in_the_type_it_was_saved_in(kind, tmp_path):
    torch.manual_seed(0)
    model = kind()
    if kind is Mixed:
        model.a.bfloat16()
        model.b.bfloat16()
    result = halve(model, [normal(50, 6)])
    result.save(tmp_path / "small")
    loaded = mipp.load(tmp_path / "small", kind)
    assert [t.dtype for t in loaded.state_dict().values()] == [t.dtype for t in result.model.state_dict().values()]
    assert torch.equal(loaded(normal(7, 6)), result.model(normal(7, 6)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distillation_learns_in_half_precision_what_it_learns_in_full(dtype):
    found = {}
    for kind in (torch.float32, dtype):
        model = linear_layers(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))), 6, 32, 32, 3).to(kind)
        data = [normal(64, 6, seed=n).to(kind) for n in range(9)]
        how = mipp.Distillation(epochs=20)
        result = halve(model, data, method=mipp.methods.L1(), compensate=False, recover=how)
        assert result.model.a.weight.dtype == kind
        cut = mipp.apply(result.plan, model)
        found[kind] = squared_error(result.model, model, [(x,) for x in data]) / squared_error(cut, model, [(x,) for x in data])
    assert found[torch.float32] < 0.8
    assert found[dtype] == pytest.approx(found[torch.float32], rel=0.02)


def test_distillation_of_images_that_become_volumes():
    model = Net(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x)).unsqueeze(2))).flatten(1)),
                a=nn.Conv2d(3, 8, 3), b=nn.Conv3d(8, 4, (1, 3, 3)), c=nn.Linear(64, 3))  # fmt: skip
    result = halve(model, [normal(16, 3, 8, 8, seed=n) for n in range(3)], recover=mipp.Distillation(epochs=1))
    assert result.model(normal(2, 3, 8, 8)).shape == (2, 3)


# --- the caller's modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_whoever_prunes_without_gradients_can_train_the_result(mode):
    with mode():
        model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
        loss = nn.functional.cross_entropy
        data = [(normal(50, 6), torch.arange(50) % 3)]
        result = halve(model, data, method=mipp.methods.Taylor(), loss_fn=loss)
    result.model(normal(5, 6)).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters())


# --- what the first dimension is ------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM over time-first or batch-first sequences, its outputs averaged over time or not."""

    def __init__(self, *, batch_first: bool, averaged: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time, self.averaged = int(batch_first), averaged
        self.lstm, self.out = nn.LSTM(8, 24, batch_first=batch_first), nn.Linear(24, 4)

    def forward(self, x):
        said = self.lstm(x)[0]
        return self.out(said.mean(self.time) if self.averaged else said)


@pytest.mark.parametrize("averaged", [True, False])
def test_sequences_with_time_first_are_pruned_as_those_with_batches_first(averaged):
    data = [normal(10, 24, 8, seed=seed).cumsum(0) * 0.3 for seed in range(3)]
    results, errors = [], []
    for batch_first, own in ((False, data), (True, [x.transpose(0, 1) for x in data])):
        model = Recurrent(batch_first=batch_first, averaged=averaged)
        results.append(halve(model, own))
        errors.append(squared_error(results[-1].model, model, [(x,) for x in own]))
    first, second = results
    assert first.plan.kept == second.plan.kept
    assert errors[0] == pytest.approx(errors[1], rel=0.2)  # other rows are held out for the ridge
    assert any("taken whole" in note for note in first.report.notes)
    assert not any("taken whole" in note for note in second.report.notes)


def test_images_without_a_dimension_of_samples_are_refitted():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(0), nn.Linear(8, 4))
    calls = [(normal(3, 8, 8, seed=seed),) for seed in range(24)]
    result = halve(model, [x for (x,) in calls])
    assert squared_error(result.model, model, calls) < 0.5 * squared_error(mipp.apply(result.plan, model), model, calls)


# --- what runs only sometimes ---------------------------------------------------------------------------------------


class Switched(nn.Module):
    """A norm for each kind of image."""

    def __init__(self, choose) -> None:
        super().__init__()
        self.choose, self.a, self.b = choose, nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])

    def forward(self, x):
        return self.b(F.relu(self.norms[self.choose(self, x)](self.a(x))).mean((2, 3)))


@pytest.mark.parametrize("choose", [lambda m, x: int(x.mean() < 0), lambda m, x: int(m.training)])
def test_norms_that_did_not_run_keep_the_nodes_they_may_share(choose):
    found = mipp.inspect(Switched(choose), normal(4, 3, 6, 6).abs())
    assert "a" not in found.groups
    assert any(line.name == "norms.1" and line.reason == "did not run" for line in found.frozen)


# --- widths that cannot be ------------------------------------------------------------------------------------------


class Squeezed(nn.Module):
    """A single map that is left is squeezed away."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.d, self.f = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        return self.f(F.relu(self.d(F.relu(self.c(x)))).mean((2, 3), keepdim=True).squeeze())


@pytest.mark.parametrize("nodes", range(3, 7))
@pytest.mark.parametrize("method", [mipp.methods.MIPP(), mipp.methods.L1(scope="global")])
def test_a_width_that_does_not_run_is_passed_over_and_the_budget_holds(nodes, method):
    result = mipp.prune(Squeezed(), [normal(16, 3, 6, 6)], mipp.Budget(nodes=nodes), method, progress=False)
    assert result.plan.widths["d"] >= 2
    assert sum(result.plan.widths.values()) <= nodes


def test_a_test_that_wants_such_a_width_gets_the_next():
    found = prune_by_test(Squeezed(), mipp.methods.MIPP(confidence=1 - 1e-12))
    assert found.plan.widths["d"] >= 2


def prune_by_test(model: nn.Module, method: mipp.methods.MIPP) -> mipp.Result:
    return mipp.prune(model, [normal(16, 3, 6, 6)], method=method, progress=False)


def test_such_a_width_is_refused_by_name_where_it_was_asked_for():
    with pytest.raises(mipp.InfeasibleBudgetError, match=r"1 nodes of group 'd'.*Expected another width: 2"):
        mipp.prune(Squeezed(), [normal(16, 3, 6, 6)], mipp.Budget(widths={"d": 1}), progress=False)


# --- other odd things -----------------------------------------------------------------------------------------------


def test_complex_weights_are_left_as_cut_and_named():
    def bare(m, x):
        return m.b(torch.tanh(m.a(x))).abs()

    model = Net(bare, a=nn.Linear(6, 16, dtype=torch.cfloat), b=nn.Linear(16, 3, dtype=torch.cfloat))
    data = [torch.complex(normal(50, 6), normal(50, 6, seed=1))]
    result = halve(model, data, method=mipp.methods.L1())
    assert squared_error(result.model, mipp.apply(result.plan, model), [data]) == 0
    assert any("complex: b." in note for note in result.report.notes)


class Bundle:
    """A batch that knows itself."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.me = x, self


def test_batches_may_hold_themselves():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
    data = mipp.Calibration([Bundle(normal(50, 6))], forward=lambda m, batch: m(batch.me.x))
    assert halve(model, data).plan == halve(model, [normal(50, 6)]).plan


class Partial(nn.Module):
    """Keeps its body out of checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def state_dict(self, *args, **kwargs):
        return {n: t for n, t in super().state_dict(*args, **kwargs).items() if not n.startswith("body.")}


def test_what_a_state_dict_leaves_out_is_saved_recovered_and_noted(tmp_path):
    model, data = Partial(), [normal(50, 6, seed=seed) for seed in range(3)]
    options = {"recover": mipp.Distillation(epochs=2, seconds=1000), "checkpoint": tmp_path / "notes"}
    result = halve(model, data, **options)
    result.save(tmp_path / "small")
    for again in (mipp.load(tmp_path / "small", model), halve(model, data, **options).model):
        assert squared_error(again, result.model, [(data[0],)]) == 0
