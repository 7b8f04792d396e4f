"""The contract of `prune`, `inspect` and `Result`: forms of calibration data, options, reports, errors."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from cases import CORE, VECTOR, Case, Keep, Net, assert_same, named, outputs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mipp
from mipp.data.calibration import read

pytestmark = pytest.mark.usefixtures("quick")
HALF = mipp.Budget(nodes=0.5)


def linear_chain() -> nn.Module:
    return named("linear chain").model()


def vectors(n: int = 20, seed: int = 0) -> torch.Tensor:
    return VECTOR(n, torch.Generator().manual_seed(seed))


def prune_chain(model=None, data=None, budget=HALF, *args, **options) -> mipp.Result:
    return mipp.prune(model or linear_chain(), [vectors()] if data is None else data, budget, *args, progress=False, **options)


def state_of(result) -> dict:
    return result.model.state_dict()


def assert_equal_results(a: mipp.Result, b: mipp.Result) -> None:
    assert a.plan.kept == b.plan.kept
    assert_same(list(state_of(a).values()), list(state_of(b).values()), rtol=1e-9)


# --- forms of calibration data ----------------------------------------------------------------------------------------


def test_every_form_of_the_same_data_gives_the_same_result():
    x, y = vectors(), torch.zeros(20)
    expected = prune_chain(data=[x])
    forms = [
        x, [(x, y)], [[x, y]], [(x,)], [((x,), y)], ({"input": x} for _ in range(1)), (b for b in [x[:7],
        x[7:]]), (x[:10], x[10:]),
        DataLoader(TensorDataset(x, y), batch_size=6), mipp.Calibration([x]), mipp.Calibration([x], max_samples=None),
        mipp.Calibration([{"deep": [x]}], forward=lambda model, batch: model(batch["deep"][0])),
    ]  # fmt: skip
    for form in forms:
        assert_equal_results(prune_chain(data=form), expected)


def test_dicts_and_tuples_become_keywords_and_arguments():
    case = named("several inputs")
    x, y = case.batch(20)
    expected = prune_chain(case.model(), [((x, y), None)])
    assert_equal_results(prune_chain(case.model(), [{"x": x, "y": y}]), expected)
    assert_equal_results(prune_chain(case.model(), [([x, y], torch.zeros(20))]), expected)
    assert_equal_results(prune_chain(case.model(), [(({"x": x, "y": y}), torch.zeros(20))]), expected)
    how = mipp.Calibration([(x, y)], forward=lambda model, batch: model(*batch))
    assert_equal_results(prune_chain(case.model(), how), expected)


class Once:
    """An iterable that may be read once, and counts what is taken."""

    def __init__(self, batches):
        self.batches, self.taken, self.read = batches, 0, False

    def __iter__(self):
        assert not self.read, "read twice"
        self.read = True
        for batch in self.batches:
            self.taken += 1
            yield batch


@pytest.mark.parametrize("method", CORE)
def test_the_data_are_read_once_and_no_further_than_needed(method):
    data = Once([vectors(10, i) for i in range(8)])
    prune_chain(data=mipp.Calibration(data, max_samples=25), method=mipp.methods.all()[method]())
    assert data.taken == 3


def test_exactly_the_first_samples_count():
    x = vectors(50)
    assert_equal_results(prune_chain(data=mipp.Calibration([x[:30], x[30:]], max_samples=37)), prune_chain(data=[x[:37]]))


def test_by_default_1024_samples_are_read():
    data = Once([vectors(400, i) for i in range(5)])
    prune_chain(data=data)
    assert data.taken == 3


def test_large_batches_are_read_in_pieces_without_changing_anything():
    x, y = torch.randn(300, 4), torch.arange(300)
    pieces = read(mipp.Calibration([(x, y)], max_samples=None), None)
    assert len(pieces) > 1
    assert torch.equal(torch.cat([p.call.args[0] for p in pieces]), x)
    assert torch.equal(torch.cat([p.labels for p in pieces]), y)
    assert sum(p.samples for p in pieces) == 300


def test_the_calibration_data_are_not_changed():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double()
    x = vectors()
    before = x.clone()
    for method in map(mipp.methods.all().get, CORE):
        prune_chain(model, [x], method=method())
    assert torch.equal(x, before)
    mipp.inspect(model, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "wrong",
    [[], iter(()), [()], ["text"], [{"a": 3}], [None], [torch.full((4, 4), torch.nan).double()],
     [torch.full((4, 4), torch.inf).double()], mipp.Calibration([torch.zeros(4, 4).double()], max_samples=0)],
)  # fmt: skip
def test_data_that_cannot_be_used_are_refused(wrong):
    with pytest.raises(mipp.CalibrationError):
        prune_chain(data=wrong)


def test_no_calibration_data_where_a_tensor_has_no_samples():
    with pytest.raises(mipp.CalibrationError):
        prune_chain(data=[torch.zeros(0, 4).double()])


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_that_produces_non_finite_values_is_refused(method, value):
    """A diverged network: the statistics of its activations mean nothing."""
    model = linear_chain()
    with torch.no_grad():
        model[0].weight[0, 0] = value
    with pytest.raises(mipp.CalibrationError):
        prune_chain(model, method=mipp.methods.all()[method]())


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", ["linear chain", "residual", "few groups"])
def test_very_few_samples_are_enough_to_run(method, samples, name):
    case = named(name)
    result = prune_chain(case.model(), [case.batch(samples)], mipp.Budget(macs=0.5), method=mipp.methods.all()[method]())
    assert all(torch.isfinite(t).all() for t in outputs(result.model, case.batch(3)))


@pytest.mark.parametrize("method", CORE)
def test_constant_and_dead_activations_are_no_obstacle(method):
    model = linear_chain()
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[0].bias[:2] = -1.0
        model[2].weight.zero_()
    result = prune_chain(model, method=mipp.methods.all()[method]())
    assert torch.isfinite(outputs(result.model, vectors())[0]).all()


def test_a_model_that_takes_another_path_on_other_data_is_refused_or_right():
    """A branch on values. Statistics of the wrong path must not be used silently."""
    case = named("branch on values")
    data = [case.batch(6, 0), -case.batch(6, 1)]
    for method in map(mipp.methods.all().get, CORE):
        try:
            result = prune_chain(case.model(), data, method=method(), compensate=mipp.Refit(ridge=1e-9))
        except mipp.UnsupportedModelError:
            continue
        cut = mipp.apply(result.plan, case.model())
        worse = [
            sum(float((outputs(m, x)[0] - outputs(case.model(), x)[0]).square().sum()) for x in data)
            for m in (result.model, cut)
        ]
        assert worse[0] <= worse[1] * (1 + 1e-9)


# --- the result -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_class_dtype_training_mode_and_gradients_are_those_of_the_model(dtype, training):
    case = named("residual")
    model = case.model().to(dtype).train(training)
    model.bn1.train(not training)
    model.a.weight.requires_grad_(False)
    result = prune_chain(model, [case.batch(8).to(dtype)])
    assert type(result.model) is type(model)
    assert {t.dtype for t in result.model.state_dict().values() if t.is_floating_point()} == {dtype}
    assert {n: m.training for n, m in result.model.named_modules()} == {n: m.training for n, m in model.named_modules()}
    wanted = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in result.model.named_parameters()} == wanted
    assert all(p.is_leaf and not p.is_inference() for p in result.model.parameters())


def test_the_plan_replays_on_the_dense_model():
    model = linear_chain()
    result = prune_chain(model, compensate=False)
    again = mipp.apply(result.plan, model)
    pairs = zip(again.state_dict().values(), state_of(result).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not result.resumed


def test_compensation_is_on_by_default_and_lowers_the_error():
    case = named("residual")
    batches = case.batches(4, 20)
    model = case.model()
    plain, fitted = (prune_chain(model, batches, method=mipp.methods.L1(), **o) for o in ({"compensate": False}, {}))
    assert plain.plan == fitted.plan
    errors = [
        sum(float((outputs(r.model, x)[0] - outputs(model, x)[0]).square().sum()) for x, _ in batches)
        for r in (plain, fitted)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_mipp_keeps_what_carries_information():
    """Nodes that copy others, do nothing, or are read by nothing go first."""
    model = linear_chain()
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = model[0].weight[1], model[0].bias[1]
        model[0].weight[2], model[0].bias[2] = 0, -1.0
        model[2].weight[:, 5] = 0
    result = prune_chain(model, [vectors(200)], mipp.Budget(widths={"0": 3, "2": 5}))
    kept = set(result.plan.kept["0"])
    assert not kept & {2, 5}
    assert len(kept & {1, 4}) == 1
    assert_same(outputs(result.model, vectors()), outputs(model, vectors()), rtol=0.01)


def test_mipp_can_let_the_test_decide():
    result = prune_chain(budget=None, method=mipp.methods.MIPP(confidence=0.95))
    assert all(result.plan.kept.values())


def test_the_report_is_complete_and_json():
    case = named("residual")
    result = prune_chain(
        case.model(),
        case.batches(),
        mipp.Budget(macs=0.6),
        exclude=["stem"],
        evaluate=lambda m: {"n": len(list(m.parameters()))},
    )
    data = json.loads(json.dumps(result.report.to_dict()))
    for side in ("before", "after"):
        assert {"macs", "params", "latency_ms"} <= data[side].keys()
        assert data[side]["metrics"] == {"n": float(len(list(case.model().parameters())))}
    assert data["after"]["macs"] <= 0.6 * data["before"]["macs"]
    assert {g["name"]: g["kept"] for g in data["groups"]} == {n: len(k) for n, k in result.plan.kept.items()}
    assert all(0 <= g["nats"] <= g["total_nats"] for g in data["groups"])
    assert any(f["name"] == "stem" and "excluded" in f["reason"] for f in data["frozen"])
    assert "Net" in str(result.report)
    assert data["budget"] == {"macs": 0.6}
    assert "MIPP(" in data["method"]


def test_evaluate_is_called_before_and_after():
    seen = []

    def evaluate(model):
        seen.append(sum(p.numel() for p in model.parameters()))
        return 0.5

    result = prune_chain(evaluate=evaluate)
    assert seen == [result.report.before.params, result.report.after.params]
    assert result.report.after.metrics == {"score": 0.5}


def test_what_a_notebook_shows_of_a_result_is_its_table():
    result = prune_chain()
    assert repr(result) == repr(result.report) == str(result.report)
    assert repr(mipp.inspect(linear_chain(), vectors())) == str(mipp.inspect(linear_chain(), vectors()))
    nodes = sum(g.size for g in result.plan.groups.values())
    assert f"{sum(result.plan.widths.values())} of {nodes} nodes kept, method=MIPP(" in repr(result.plan)


@pytest.mark.parametrize("method", ["mipp", "thinet", "hrank", "osscar", "taylor"])
def test_a_default_device_of_the_caller_is_left_to_the_caller(method, tmp_path):
    """The meta device stands for a GPU: nothing can be computed there, so nothing of ours may be made there."""
    seen = []

    def evaluate(model):
        seen.append(torch.get_default_device().type)
        return 0.0

    case, made = named("residual"), mipp.methods.all()[method]()
    batches = case.batches()
    options = {"method": made, "loss_fn": lambda output, _: output.square().mean(), "evaluate": evaluate}
    expected = prune_chain(case.model(), batches, **options)
    model = case.model()
    with torch.device("meta"):
        result = prune_chain(model, batches, **options)
        result.save(tmp_path / "small")
        again = mipp.load(tmp_path / "small", model)
    assert seen == ["cpu", "cpu", "meta", "meta"]
    assert_equal_results(result, expected)
    assert_same(list(again.state_dict().values()), list(state_of(result).values()), rtol=0)


def test_the_generator_of_python_is_left_alone():
    code = "import random; s = random.getstate(); import mipp; mipp.prune; print(s == random.getstate())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_modules_of_the_package_are_found_without_an_import_of_their_own():
    names = ("estimators", "export", "grid", "methods", "report", "zoo")
    modules = [getattr(mipp, name) for name in names]
    assert [m.__name__ for m in modules] == [f"mipp.{name}" for name in names]


def test_latency_is_measured(monkeypatch):
    monkeypatch.undo()
    result = prune_chain()
    assert result.report.before.latency_ms > 0
    assert result.report.after.latency_ms > 0


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [["a"], ("a",), "a", ["[a]"]])
def test_excluded_layers_keep_their_nodes(exclude):
    case = named("residual")
    result = prune_chain(case.model(), case.batches(), exclude=exclude)
    assert "a" not in result.plan.kept
    assert result.model.a.weight.shape[0] == 4
    assert result.model.stem.weight.shape[0] < 5


def test_excluding_one_writer_of_a_stream_excludes_the_stream():
    case = named("residual")
    result = prune_chain(case.model(), case.batches(), exclude=["b"])
    assert list(result.plan.kept) == ["a"]


def test_globs_and_parents_exclude_what_is_below():
    case = named("cifar resnet")
    for exclude in (["layer1*"], ["layer1"], ["layer1.0.*"]):
        found = mipp.inspect(case.model(), case.batch(2), exclude)
        assert set(found.groups) == {"layer2.0.conv1", "layer3.0.conv1"}
        reasons = {f.reason for f in found.frozen if f.name.startswith("layer1")}
        assert "excluded by the caller" in reasons


def test_excluding_what_is_not_there_is_an_error_with_a_suggestion():
    case = named("residual")
    for call in (
        lambda: prune_chain(case.model(), case.batches(), exclude=["stm"]),
        lambda: mipp.inspect(case.model(), case.batch(2), ["stm"]),
    ):
        with pytest.raises(mipp.MippError, match="stem"):
            call()


def test_the_seed_decides_what_is_random():
    plans = [prune_chain(budget=mipp.Budget(nodes=6), method=mipp.methods.Random(), seed=s).plan.kept for s in range(6)]
    assert len({str(p) for p in plans}) > 1


def test_the_device_is_that_of_the_model():
    result = prune_chain(device="cpu")
    assert {p.device.type for p in result.model.parameters()} == {"cpu"}


def test_a_method_gets_what_prune_was_given():
    seen = []

    class Look(Keep):
        def plan(self, task, budget):
            seen.append((task, budget))
            return super().plan(task, budget)

    def loss_fn(output, labels):
        return output.sum()

    def train(model, *, fraction=1.0, after_step=None):
        return None

    x, y = vectors(), torch.arange(20)
    model = linear_chain()
    prune_chain(model, [(x, y)], HALF, Look({}), loss_fn=loss_fn, train=train, seed=5)
    (task, budget), *_ = seen
    assert (task.loss_fn, task.train, task.seed, budget) == (loss_fn, train, 5, HALF)
    assert torch.equal(task.batches[0].labels, y)


def test_what_torch_compile_and_data_parallel_wrap_is_pruned():
    model = linear_chain()
    wrapped = nn.DataParallel(model)
    result = prune_chain(wrapped)
    assert type(result.model) is nn.Sequential
    assert mipp.inspect(wrapped, vectors(2)).groups


def test_a_pruned_model_exports():
    case = named("residual")
    small = prune_chain(case.model(), case.batches()).model
    x = case.batch(3)
    exported = torch.export.export(small, (x,)).module()
    assert_same(outputs(exported, x), outputs(small, x))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CORE)
def test_without_a_budget_a_method_says_what_to_pass(method):
    for budget in (None, mipp.Budget(), mipp.Budget(min_keep=2)):
        with pytest.raises(mipp.MissingRequirementError, match="budget"):
            prune_chain(budget=budget, method=mipp.methods.all()[method]())


def test_a_budget_that_cannot_be_met_is_refused():
    with pytest.raises(mipp.InfeasibleBudgetError, match="at least"):
        prune_chain(budget=mipp.Budget(nodes=1))
    with pytest.raises(mipp.InfeasibleBudgetError):
        prune_chain(budget=mipp.Budget(macs=1))


def test_a_model_with_nothing_to_prune_is_refused_with_the_reasons():
    with pytest.raises(mipp.UnsupportedModelError, match="output of the model"):
        prune_chain(nn.Linear(4, 3).double())
    case = named("index_select over channels")
    with pytest.raises(mipp.UnsupportedModelError, match="index_select"):
        prune_chain(case.model(), case.batches())


def test_a_forward_pass_that_fails_is_told_with_its_cause():
    with pytest.raises(mipp.UnsupportedModelError, match=r"RuntimeError.*shape \(\d+, 3\)") as caught:
        prune_chain(data=[torch.zeros(20, 3).double()])
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(mipp.UnsupportedModelError):
        mipp.inspect(linear_chain(), torch.zeros(2, 3).double())


def test_every_error_is_a_mipp_error():
    names = [
        "CalibrationError",
        "InfeasibleBudgetError",
        "MissingRequirementError",
        "PlanMismatchError",
        "UnsupportedModelError",
    ]
    assert all(issubclass(getattr(mipp, name), mipp.MippError) for name in names)


def test_a_keyboard_interrupt_is_not_swallowed():
    def forward(m, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mipp.inspect(Net(forward, a=nn.Linear(4, 4)), torch.zeros(2, 4))


# --- proofs inside prune ----------------------------------------------------------------------------------------------


def test_where_cutting_differs_from_masking_the_group_is_frozen_and_the_plan_made_anew():
    """The number of groups of a convolution is fixed in the code, so the cut model does not run."""
    case = named("groups fixed in the code")
    result = prune_chain(case.model(), case.batches(), mipp.Budget(nodes=0.8))
    assert list(result.plan.kept) == ["2"]
    assert any(f.name in ("0", "1") for f in result.report.frozen)
    assert outputs(result.model, case.batch(3))[0].shape == (3, 2, 4, 4)


def test_a_squeeze_of_all_dimensions_survives_a_width_of_one():
    """`squeeze()` takes away more when one channel is left; the group is kept wider, or the cut model is right."""

    def forward(m, x):
        return m.c(F.relu(m.b(F.relu(m.a(x)).mean((2, 3), keepdim=True).squeeze())))

    case = Case("squeeze", lambda: Net(forward, a=nn.Conv2d(3, 4, 3), b=nn.Linear(4, 5), c=nn.Linear(5, 2)),
                lambda n, g: torch.randn(n, 3, 6, 6, generator=g, dtype=torch.float64))  # fmt: skip
    model = case.model()
    result = prune_chain(model, case.batches(), mipp.Budget(nodes=2), method=mipp.methods.L1())
    assert_same(
        outputs(mipp.apply(result.plan, model), case.batch(3)), outputs(mipp.mask(result.plan, model), case.batch(3))
    )
    assert outputs(result.model, case.batch(3))[0].shape == (3, 2)


def test_a_proof_that_freezes_everything_ends_in_an_error_of_the_library():
    """The code fixes a width in a way the graph cannot see."""

    def forward(m, x):
        h = F.relu(m.a(x))
        if h.shape[-1] < 6:
            raise RuntimeError("six are needed")
        return m.b(h)

    model = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2)).double()
    for method in (mipp.methods.L1(), mipp.methods.MIPP(), Keep({"a": (0, 1)})):
        with pytest.raises(mipp.MippError):
            prune_chain(model, method=method)
