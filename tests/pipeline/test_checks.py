"""Mistakes in models, options and names are told in one paragraph, before anything takes long."""

import pytest
import torch
import torch.nn.functional as F
from cases import CORE, Net, named
from networks import HALF, image_batches, image_network, linear_chain, prune_chain, prune_images, refusal, refused
from torch import nn

import mipp

pytestmark = pytest.mark.usefixtures("quick")


def test_options_of_another_kind_are_refused_with_what_to_write():
    assert "mipp.Budget(macs=0.5)" in refusal(budget=0.5)
    assert "mipp.methods.MIPP()" in refusal(method="mipp")
    assert "L1()" in refusal(method=mipp.methods.L1)
    assert "mipp.Refit" in refusal(compensate="yes")
    assert "'distill'" in refusal(recover="train")
    assert "'2GB'" in refusal(memory_limit="a lot")


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
    assert "frontier has no option progres" in refused(
        lambda: mipp.frontier(image_network(), image_batches(), [HALF], progres=True)
    )
    assert "whose estimator is used" in refused(
        lambda: mipp.information(image_network(), image_batches(), mipp.methods.L1())
    )
    assert "expected one input, such as torch.randn" in refused(lambda: mipp.inspect(image_network(), (1, 3, 8, 8)))
    plan = prune_images().plan
    assert "expected a plan and the model it is for" in refused(lambda: mipp.apply(image_network(), plan))


def test_functions_that_take_other_arguments_are_refused_before_anything_takes_long():
    assert "called as evaluate(model), which it does not take: too many positional" in refusal(evaluate=lambda: 0.0)
    assert "called as loss_fn(output, labels), which it does not take" in refusal(loss_fn=lambda output: output.sum())
    assert "train(model, fraction=..., after_step=...), which it does not take" in refusal(train=lambda model: None)
    assert "evaluate=<class 'int'> is no function; expected one that is called as evaluate(model)" in refusal(
        evaluate=int
    )
    assert "loss_fn=<class" in refusal(loss_fn=nn.CrossEntropyLoss)
    assert "called as forward(model, batch), which it does not take: missing a required argument: 'z'" in refused(
        lambda: mipp.Calibration(image_batches(), forward=lambda x, y, z: x)
    )


def test_unknown_names_come_with_the_nearest():
    assert "Did you mean '4'" in refusal(budget=mipp.Budget(widths={"44": 2}))
    model = Net(lambda m, x: m.head(m.stem(x).relu().mean((2, 3))), stem=nn.Conv2d(3, 8, 3), head=nn.Linear(8, 2))
    assert "Did you mean 'stem'" in refusal(model=model, exclude=["stme"])


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


def test_a_weightless_model_on_the_meta_device_is_told_to_load():
    with torch.device("meta"):
        model = image_network()
    with pytest.raises(mipp.UnsupportedModelError, match="meta device"):
        prune_images(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_refused_with_the_reason():
    with pytest.raises(mipp.UnsupportedModelError, match="was made from"):
        prune_images(torch.jit.trace(image_network().eval(), image_batches()[0]))


def test_exclude_may_be_a_generator():
    found = prune_images(exclude=(name for name in ["0"]))
    assert found.plan.widths.keys() == {"4"}
    assert mipp.inspect(image_network(), image_batches()[0], (n for n in ["0"])).groups.keys() == {"4"}


def test_an_example_without_samples_is_refused():
    assert "no samples" in refused(lambda: mipp.inspect(image_network(), torch.zeros(0, 3, 8, 8)))


class OneShort(mipp.methods.Random):
    def rank(self, task):
        return {name: scores[:-1] for name, scores in super().rank(task).items()}


class Silent(mipp.methods.Random):
    def plan(self, task, budget):
        return None


def test_methods_of_ones_own_are_checked():
    assert "have shape [7]; expected [8], one a node" in refusal(method=OneShort())
    assert "returned a NoneType; expected a plan" in refusal(method=Silent())


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


@pytest.mark.parametrize("method", CORE)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_that_produces_non_finite_values_is_refused(method, value):
    """A diverged network: the statistics of its activations mean nothing."""
    model = linear_chain()
    with torch.no_grad():
        model[0].weight[0, 0] = value
    with pytest.raises(mipp.CalibrationError):
        prune_chain(model, method=mipp.methods.all()[method]())


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
