"""A new user with a model and mistakes of their own: what goes through, and what is told in one paragraph."""

import copy
import json
import logging
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import Net, assert_same, named, outputs
from torch import nn

import mipp
from mipp.data.calibration import as_call, read
from mipp.surgery import wrong_groups

pytestmark = pytest.mark.usefixtures("quick")
HALF = mipp.Budget(nodes=0.5)


def image_network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def image_batches(batches: int = 3, samples: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, 3, 8, 8, generator=generator) for _ in range(batches)]


def prune_images(model=None, data=None, budget=HALF, **options) -> mipp.Result:
    return mipp.prune(
        image_network() if model is None else model, image_batches() if data is None else data, budget, progress=False, **options
    )


def refusal(kind=mipp.MippError, **options) -> str:
    """The paragraph with which `prune` refuses; the model is as it was."""
    model = options.pop("model", None) or image_network()
    before = {n: t.clone() for n, t in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    with pytest.raises(kind) as caught:
        prune_images(model, **options)
    assert all(torch.equal(t.nan_to_num(), before[n].nan_to_num()) for n, t in model.state_dict().items()) or not before
    message = str(caught.value)
    assert "\n" not in message
    assert 40 < len(message) < 700
    return message


def refused(call) -> str:
    """The paragraph with which something else refuses."""
    with pytest.raises(mipp.MippError) as caught:
        call()
    return str(caught.value)


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_of_another_kind_are_refused_with_what_to_write():
    assert "mipp.Budget(macs=0.5)" in refusal(budget=0.5)
    assert "mipp.methods.MIPP()" in refusal(method="mipp")
    assert "L1()" in refusal(method=mipp.methods.L1)
    assert "mipp.Refit" in refusal(compensate="yes")
    assert "'distill'" in refusal(recover="train")
    assert "'2GB'" in refusal(memory_limit="a lot")


@pytest.mark.parametrize("budget", [{"macs": 1e-6}, {"params": 5}, {"nodes": 2, "min_keep": 3}, {"widths": {"0": 99}}])
def test_a_budget_that_cannot_be_met_is_refused_before_any_statistics(budget, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("statistics were computed")

    monkeypatch.setattr("mipp.methods.MIPP.plan", fail)
    message = refusal(mipp.InfeasibleBudgetError, budget=mipp.Budget(**budget))
    assert "expected" in message or "or more" in message


def test_the_smallest_value_named_can_be_met():
    message = refusal(mipp.InfeasibleBudgetError, budget=mipp.Budget(macs=1e-6))
    smallest = float(message.split("raise macs to ")[1].split(" ")[0])
    assert prune_images(budget=mipp.Budget(macs=smallest)).report.after.nodes == 2


def test_fields_of_methods_have_only_the_values_they_name():
    assert "L1(scope='gloabl'): expected 'local' or 'global'" in refusal(method=mipp.methods.L1(scope="gloabl"))
    assert "SNIP(structure='gates'): expected" in refusal(method=mipp.methods.SNIP(structure="gates"))
    assert "Random(like=...) is 'mipp'" in refusal(method=mipp.methods.Random(like="mipp"))


def test_what_is_of_quite_another_kind_is_refused_before_anything_takes_long():
    assert "a number, or a dict of numbers" in refusal(evaluate=lambda model: None)
    assert "a number, or a dict of numbers" in refusal(evaluate=lambda model: {"accuracy": "good"})
    assert "device='gpu' cannot be used" in refusal(device="gpu")
    assert "data are a int; expected a list of batches" in refusal(data=3)
    assert "exclude holds a NoneType; expected names of modules" in refusal(exclude=None)
    assert "exclude holds a Linear; expected names of modules" in refusal(exclude=[nn.Linear(2, 2)])
    assert "seed is None; expected a whole number" in refusal(seed=None)
    with pytest.raises(mipp.InfeasibleBudgetError, match="expected a float in"):
        mipp.Budget(latency_ms=float("inf"))
    assert "'all'; expected a whole number" in refused(lambda: mipp.Calibration(image_batches(), max_samples="all"))
    assert "expected a dict such as {'conv1': 8}" in refused(lambda: mipp.Budget(widths=8))
    assert "expected min_keep >= 0" in refused(lambda: mipp.Budget(min_keep="a"))
    assert "frontier has no option progres" in refused(lambda: mipp.frontier(image_network(), image_batches(), [HALF], progres=True))
    assert "whose estimator is used" in refused(lambda: mipp.information(image_network(), image_batches(), mipp.methods.L1()))
    assert "expected one input, such as torch.randn" in refused(lambda: mipp.inspect(image_network(), (1, 3, 8, 8)))
    plan = prune_images().plan
    assert "expected a plan and the model it is for" in refused(lambda: mipp.apply(image_network(), plan))


def test_a_folder_is_no_plan(tmp_path):
    assert "cannot be read (Is a directory)" in refused(lambda: mipp.load_plan(tmp_path))


def test_one_budget_has_a_frontier_of_one_result():
    assert len(mipp.frontier(image_network(), image_batches(), HALF, mipp.methods.L1(), progress=False)) == 1


def test_unknown_names_come_with_the_nearest():
    assert "Did you mean '4'" in refusal(budget=mipp.Budget(widths={"44": 2}))
    model = Net(lambda m, x: m.head(m.stem(x).relu().mean((2, 3))), stem=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 2))
    assert "Did you mean 'stem'" in refusal(model=model, exclude=["stme"])


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [nn.Linear, "resnet", 3, {"weight": torch.zeros(3)}, lambda x: x])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(mipp.UnsupportedModelError, match=r"expected an nn\.Module"):
        prune_images(model)
    with pytest.raises(mipp.UnsupportedModelError, match=r"expected an nn\.Module"):
        mipp.inspect(model, image_batches()[0])


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Counting(nn.Module):
    count = 0

    def forward(self, x):
        self.count += 1
        return x * self.count


@pytest.mark.parametrize("culprit", [Noisy, Counting])
def test_a_model_that_is_not_deterministic_is_refused_naming_the_module(culprit):
    model = image_network()
    model[2] = nn.Sequential(nn.ReLU(), culprit())
    assert f"'2.1' ({culprit.__name__})" in refusal(mipp.UnsupportedModelError, model=model)


def test_noise_in_the_code_of_a_module_is_put_down_to_that_module():
    block = Net(lambda m, x: m.b(F.dropout(m.a(x), 0.5, training=True)), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1))
    model = image_network()
    model[3] = block
    message = refusal(mipp.UnsupportedModelError, model=model)
    assert "'3' (Net)" in message
    assert "training=self.training" in message


def test_nan_in_weights_or_buffers_is_refused_by_name():
    for name in ("4.bias", "1.running_mean"):
        model = image_network()
        model.state_dict()[name][1] = torch.nan
        assert f"'{name}'" in refusal(mipp.CalibrationError, model=model)


SEEING = [mipp.methods.MIPP(), mipp.methods.MIPP(collapse="l1"), mipp.methods.ThiNet(), mipp.methods.L1()]


@pytest.mark.parametrize("method", SEEING, ids=["moments", "samples", "watching", "refit"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_inside_the_network_is_put_down_to_a_group_and_a_batch(method, value):
    """Only the last samples of the third batch overflow; large batches are read in pieces, but numbered as given."""

    def forward(m, x):
        h = m.a(x)
        return m.b(torch.where(x.sum(1, keepdim=True) > 1e3, value, h))

    model = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 2))
    data = [torch.randn(200, 4) for _ in range(4)]
    data[2][190:] = 1e4
    message = refusal(mipp.CalibrationError, model=model, data=data, method=method)
    assert "group 'a'" in message
    assert "batch 2" in message


def test_a_weightless_model_on_the_meta_device_is_told_to_load():
    with torch.device("meta"):
        model = image_network()
    with pytest.raises(mipp.UnsupportedModelError, match="meta device"):
        prune_images(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_refused_with_the_reason():
    with pytest.raises(mipp.UnsupportedModelError, match="was made from"):
        prune_images(torch.jit.trace(image_network().eval(), image_batches()[0]))


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd", [torch.randn(4, 2, 8, 8), torch.randn(4, 3, 8, 8).double(), torch.zeros(4, 3, 8, 8, dtype=torch.int64)]
)
def test_a_later_batch_of_another_shape_or_type_is_refused_by_number(odd):
    assert "batch 1" in refusal(data=[image_batches()[0], odd])


def test_too_few_samples_are_used_and_said():
    notes = prune_images(data=mipp.Calibration(image_batches(1, 6), max_samples=10)).report.notes
    assert any("6 samples" in note and "10" in note for note in notes)
    assert not any("samples" in note for note in prune_images(data=mipp.Calibration(image_batches(1, 6), max_samples=6)).report.notes)


# --- disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk():
    """No file may grow beyond 2 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, request):
    result = prune_images()
    request.getfixturevalue("full_disk")
    with pytest.raises(mipp.MippError, match="enough room"):
        result.save(tmp_path / "run")
    with pytest.raises(mipp.MippError, match=r"checkpoint folder .* cannot be written"):
        prune_images(checkpoint=tmp_path / "point", exclude=["0"])
    with pytest.raises(mipp.MippError, match="TMPDIR"):
        prune_images(data=iter(image_batches()), memory_limit=1000)
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["point"], ["point", "journal.jsonl"])


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(mipp.MippError, match="cannot be written"):
        prune_images().save(tmp_path / "file" / "below" / "run")


def test_pickles_are_never_read(tmp_path):
    result = prune_images()
    result.save(tmp_path / "run")
    torch.save(result.model.state_dict(), tmp_path / "run" / "model.safetensors")
    with pytest.raises(mipp.PlanMismatchError, match="Pickled"):
        mipp.load(tmp_path / "run", image_network())


# --- numbers ----------------------------------------------------------------------------------------------------------


def assert_sensible(result, model, data) -> None:
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    assert all(result.plan.kept.values())
    assert all(0 <= lost <= whole + 1e-6 for lost, whole in result.plan.information.values())
    assert torch.isfinite(outputs(result.model, data)[0]).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_data_does_not_matter(scale):
    """Without biases the network is homogeneous: the same nodes are kept at every scale."""
    model = nn.Sequential(
        nn.Linear(6, 10, bias=False), nn.ReLU(), nn.Linear(10, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    )
    data = torch.randn(200, 6)
    plain, scaled = prune_images(model, [data]), prune_images(model, [data * scale])
    assert plain.plan.kept == scaled.plan.kept
    assert_sensible(scaled, model, data)
    assert_same(outputs(scaled.model, data), outputs(plain.model, data), rtol=1e-3)


@pytest.mark.parametrize("kind", ["rank-deficient", "constant", "duplicated", "scales apart", "few samples"])
def test_degenerate_activations_give_finite_plans(kind):
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(4 if kind == "few samples" else 100, 6)
    with torch.no_grad():
        if kind == "rank-deficient":
            model[0].weight[:] = torch.randn(12, 1) * torch.randn(1, 6)
        elif kind == "constant":
            model[0].weight[:6], model[0].bias[:6] = 0, torch.arange(-3.0, 3.0)
        elif kind == "duplicated":
            model[0].weight[6:], model[0].bias[6:] = model[0].weight[:6], model[0].bias[:6]
        elif kind == "scales apart":
            scale = torch.logspace(-6, 6, 12)
            model[0].weight.mul_(scale[:, None])
            model[0].bias.mul_(scale)
            model[2].weight.div_(scale)
    result = prune_images(model, [data])
    assert_sensible(result, model, data)
    if kind == "duplicated":
        assert len({node % 6 for node in result.plan.kept["0"]}) == len(result.plan.kept["0"])
    if kind == "constant":
        assert not set(result.plan.kept["0"]) & {0, 1, 2, 3, 4, 5} or len(result.plan.kept["0"]) > 6


def test_layers_of_one_node_go_through():
    model = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1))
    data = torch.randn(50, 4)
    assert_sensible(prune_images(model, [data], mipp.Budget(nodes=3)), model, data)


# --- a stranger's models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through(dtype):
    model = image_network().to(dtype)
    data = [x.to(dtype) for x in image_batches()]
    result = prune_images(model, data)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert_sensible(result, model, data[0])
    expected = prune_images(image_network())
    assert sum(map(len, result.plan.kept.values())) == sum(map(len, expected.plan.kept.values()))


def test_train_mode_and_dropout_stay():
    model = image_network().train()
    statistics = copy.deepcopy(model[1].state_dict())
    result = prune_images(model)
    assert result.model.training
    assert result.model[3].p == 0.3
    assert all(torch.equal(t, model[1].state_dict()[n]) for n, t in statistics.items())
    assert prune_images(image_network().eval()).plan == result.plan


def test_a_frozen_model_stays_frozen():
    result = prune_images(image_network().requires_grad_(requires_grad=False))
    assert not any(p.requires_grad for p in result.model.parameters())


def test_a_dict_goes_in_and_a_dict_comes_out():
    def forward(m, *, pixels, mask=None):
        hidden = m.a(pixels).relu()
        return {"logits": m.b(hidden.mean((2, 3))), "mask": mask}

    model = Net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 2))
    result = prune_images(model, [{"pixels": x, "mask": None} for x in image_batches()])
    assert result.model(pixels=image_batches()[0])["logits"].shape == (16, 2)
    assert result.plan.widths == {"a": 4}


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_are_pruned_right_or_frozen_with_the_reason(norm):
    model = image_network()
    getattr(nn.utils.parametrizations, norm)(model[4])
    inspection = mipp.inspect(model, image_batches()[0])
    assert all(f.reason for f in inspection.frozen)
    if norm == "orthogonal":  # every width changes what it computes, so all is frozen
        assert "0: " in refusal(mipp.UnsupportedModelError, model=model)
        return
    result = prune_images(model, image_batches(), mipp.Budget(nodes=0.8))
    names = {f.name.split(".parametrizations")[0] for f in inspection.frozen} | set(inspection.groups)
    assert any(name.startswith("4") for name in names)
    cut, masked = mipp.apply(result.plan, model), mipp.mask(result.plan, model)
    assert_same(outputs(cut.eval(), image_batches()[0]), outputs(masked.eval(), image_batches()[0]), rtol=1e-4)


def test_wrappers_are_taken_off():
    expected = prune_images(image_network())
    for wrapped in (nn.DataParallel(image_network()), torch.compile(image_network()), torch.compile(nn.DataParallel(image_network()))):
        result = prune_images(wrapped)
        assert type(result.model) is nn.Sequential
        assert result.plan == expected.plan


# --- what is seen -----------------------------------------------------------------------------------------------------


def test_the_library_logs_its_phases_and_prints_nothing(caplog, capfd):
    with caplog.at_level(logging.INFO, "mipp"):
        prune_images()
    phases = [record.message.split(":")[0] for record in caplog.records]
    assert phases == ["read", "graph", "report", "selection", "compensation", "report"]
    assert capfd.readouterr() == ("", "")


def test_the_report_says_how_it_was_called():
    call = prune_images(exclude=["0"], seed=3, memory_limit="1GB", compensate=False).report.call
    assert call.endswith(", exclude=['0'], compensate=False, seed=3, memory_limit='1GB')")
    assert prune_images(exclude=[]).report.call.endswith("steps=4))")


# --- what callers hand over in another form ---------------------------------------------------------------------------


def test_exclude_may_be_a_generator():
    found = prune_images(exclude=(name for name in ["0"]))
    assert found.plan.widths.keys() == {"4"}
    assert mipp.inspect(image_network(), image_batches()[0], (n for n in ["0"])).groups.keys() == {"4"}


def test_apply_mask_and_load_take_wrappers_off_as_prune_does(tmp_path):
    model = nn.DataParallel(image_network())
    found = prune_images(model)
    found.save(tmp_path / "small")
    for other in (mipp.apply(found.plan, model), mipp.mask(found.plan, model), mipp.load(tmp_path / "small", model)):
        assert type(other) is nn.Sequential


def test_what_is_no_model_is_refused_by_load(tmp_path):
    prune_images().save(tmp_path / "small")
    for wrong in (None, image_network().state_dict()):
        assert "expected a plan and the model it is for" in refused(lambda w=wrong: mipp.load(tmp_path / "small", w))


def test_an_example_without_samples_is_refused():
    assert "no samples" in refused(lambda: mipp.inspect(image_network(), torch.zeros(0, 3, 8, 8)))


def test_an_empty_folder_is_filled_even_where_somebody_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prune_images().save(".")
    assert mipp.load(tmp_path, image_network())(image_batches()[0]).shape == (16, 4)


def test_one_sample_is_too_few_for_a_test():
    chain = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    method = mipp.methods.MIPP(confidence=0.95)
    assert "1 samples are too few" in refusal(model=chain, data=[torch.randn(1, 8)], budget=None, method=method)


def test_integers_of_numpy_make_a_plan_that_can_be_written():
    budget = mipp.Budget(widths={"0": np.int64(4)}, min_keep=np.int32(1), round_to=np.int64(2))
    plan = prune_images(budget=budget).plan.with_kept({"4": np.array([1, 2])})
    assert mipp.PruningPlan.from_dict(json.loads(plan.to_json())) == plan
    for wrong in ({"0": 4.6}, {"0": True}):
        assert "of whole numbers" in refused(lambda w=wrong: mipp.Budget(widths=w))


def test_pruning_under_autocast_is_done_in_full_precision():
    options = {"recover": mipp.Distillation(epochs=3)}
    usual = prune_images(**options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prune_images(**options)
    assert found.plan.kept == usual.plan.kept
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), usual.model.parameters(), strict=True))


def test_a_budget_that_cannot_be_met_names_one_that_can():
    message = refusal(budget=mipp.Budget(macs=0.9, min_keep=100))
    assert "raise macs to 1.000 or more" in message
    prune_images(budget=mipp.Budget(macs=1.0, min_keep=100))


def test_a_model_that_returns_integers_has_nothing_to_distil():
    model = Net(lambda m, x: m.b(F.relu(m.a(x))).argmax(1), a=nn.Linear(8, 16), b=nn.Linear(16, 4))
    data = [torch.randn(32, 8) for _ in range(2)]
    assert "no floating-point tensor" in refusal(model=model, data=data, recover=mipp.Distillation(epochs=1))


def test_labels_may_be_a_list_or_an_array_and_go_with_a_forward_of_ones_own():
    x, y = torch.cat(image_batches(12)), torch.arange(192) % 4
    options = {"method": mipp.methods.Taylor(), "loss_fn": F.cross_entropy}
    usual = prune_images(data=[(x, y)], **options).plan.kept
    fixed = y.numpy().copy()
    fixed.flags.writeable = False
    for labels in (y.tolist(), y.numpy(), fixed, y.flip(0).numpy()[::-1]):
        assert prune_images(data=[(x, labels)], **options).plan.kept == usual
    data = mipp.Calibration([(x, y)], forward=lambda model, batch: model(batch[0]))
    assert prune_images(data=data, **options).plan.kept == usual


def test_a_list_with_an_entry_for_each_sample_is_cut_as_the_samples_are():
    x, scale, size = torch.randn(300, 8), [float(n) for n in range(300)], (1, 2)
    batch = {"x": x, "scale": scale, "size": size}, np.arange(300)
    found = read(mipp.Calibration([batch], max_samples=200), None)
    assert [piece.samples for piece in found] == [100, 100]
    assert found[1].call.kwargs["scale"] == scale[100:200]
    assert all(piece.call.kwargs["size"] == size for piece in found)
    assert found[1].labels.tolist() == list(range(100, 200))


def test_labels_that_are_no_numbers_are_left_alone():
    for labels in (np.array(["a"] * 16), [], None, ["a"] * 16):
        assert sum(piece.samples for piece in read(mipp.Calibration([(image_batches(1)[0], labels)], 12), None)) == 12


class OneShort(mipp.methods.Random):
    def rank(self, task):
        return {name: scores[:-1] for name, scores in super().rank(task).items()}


class Silent(mipp.methods.Random):
    def plan(self, task, budget):
        return None


def test_methods_of_ones_own_are_checked():
    assert "have shape [7]; expected [8], one a node" in refusal(method=OneShort())
    assert "returned a NoneType; expected a plan" in refusal(method=Silent())


def test_a_plan_of_an_attention_with_other_heads_is_refused():
    def attention(heads: int) -> nn.Module:
        return Net(
            lambda m, x: m.o(m.a(x, x, x)[0]), a=nn.MultiheadAttention(8, heads, batch_first=True), o=nn.Linear(8, 3)
        )

    plan = prune_images(attention(4), [torch.randn(64, 4, 8)], mipp.Budget(widths={"a": 2})).plan
    assert "'a' has 4 heads, but here it has 2" in refused(lambda: mipp.apply(plan, attention(2)))
    assert mipp.PruningPlan.from_dict(plan.to_dict()).heads == {"a": 4}


# --- what no shape tells ----------------------------------------------------------------------------------------------

NUMBERS = {
    "mean by hand": lambda m, h: h / (h.pow(2).sum(-1, keepdim=True) / h.size(-1) + 1e-5).sqrt(),
    "a share": lambda m, h: h / h.shape[1],
    "scaled": lambda m, h: h * h.shape[1] ** 0.5,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_nodes_whose_number_enters_the_code_as_a_number_are_frozen_with_op_and_line(name):
    model = Net(
        lambda m, x: m.o(F.relu(m.b(NUMBERS[name](m, m.a(x))))),
        a=nn.Linear(8, 16),
        b=nn.Linear(16, 12),
        o=nn.Linear(12, 3),
    )
    found = mipp.inspect(model, torch.randn(4, 8))
    assert found.groups.keys() == {"b"}
    frozen = next(f for f in found.frozen if f.name == "a")
    if name != "scaled":  # there the number is another one
        assert frozen.op in ("div", "pow")
        assert frozen.source.startswith("test_first_contact.py:")


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_groups_of_attention_that_cannot_be_cut_are_not_offered(options):
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    model = Net(lambda m, x: m.o(m.a(m.e(x), m.e(x), m.e(x))[0]), e=nn.Linear(5, 8), a=attention, o=nn.Linear(8, 3))
    x = torch.randn(6, 4, 5)
    found = mipp.inspect(model, x)
    assert found.groups.keys() == {"a.out_proj"}
    plan = mipp.PruningPlan.of(found.graph, model, {n: range(g.size - 1) for n, g in found.groups.items()})
    torch.testing.assert_close(mipp.apply(plan, model)(x), mipp.mask(plan, model)(x))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.BatchNorm1d(16), "n"),
        (nn.LayerNorm(16), "n"),
        (nn.PReLU(16), "n"),
        (nn.PReLU(16), "?"),
        (nn.PReLU(16), "[no]"),
    ],
)
def test_excluding_a_norm_keeps_the_nodes_that_it_scales(layer, name):
    model = Net(
        lambda m, x: m.o(F.relu(m.b(m.n(m.a(x))))), a=nn.Linear(8, 16), n=layer, b=nn.Linear(16, 12), o=nn.Linear(12, 3)
    )
    groups = mipp.inspect(model, torch.randn(4, 8), exclude=[name]).groups
    assert groups.keys() == (set() if name == "?" else {"b"})


def test_a_model_that_draws_at_random_can_be_inspected_but_not_pruned():
    model = Net(lambda m, x: m.b(F.dropout(m.a(x), 0.5)), a=nn.Linear(8, 16), b=nn.Linear(16, 3))
    assert mipp.inspect(model, torch.randn(4, 8)).groups.keys() == {"a"}
    assert "not deterministic" in refusal(model=model, data=[torch.randn(20, 8)])


def test_groups_that_fit_alone_but_not_together_are_found_one_by_one(monkeypatch):
    """Only as many are frozen as have to be."""
    model, x = image_network(), image_batches()[0]
    plan = prune_images(model).plan
    monkeypatch.setattr(
        "mipp.surgery.proof.agrees", lambda plan, *_: any(len(plan.kept[n]) == g.size for n, g in plan.groups.items())
    )
    assert wrong_groups(plan, model, as_call(x)) == ["4"]


def test_a_model_of_half_precision_in_its_code_keeps_its_groups():
    torch.manual_seed(3)
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)) for _ in range(8))

    def forward(m, x):
        x = x.to(torch.float16)
        for block in m.blocks:
            x = x + block(x)
        return x

    model = Net(forward, blocks=blocks).half()
    assert len(mipp.inspect(model, torch.randn(8, 64)).groups) == 8


class Own(mipp.methods.Random):
    """Notes what it likes in the plan."""

    def plan(self, task, budget):
        return mipp.PruningPlan.of(task.graph, task.model, {"0": (0, 1)}, "mine", sparsity=0.5)


def test_a_plan_carries_the_budget_that_was_given_and_the_report_says_what_it_exceeds():
    found = prune_images(method=Own(), budget=mipp.Budget(nodes=0.5))
    assert found.plan.budget == {"nodes": 0.5}
    assert [note for note in found.report.notes if "more than the 7 of the budget" in note]
