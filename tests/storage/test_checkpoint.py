"""A run goes on from a checkpoint of the same run, and from no other."""

import copy
import json
import re
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from cases import Keep, named, outputs
from networks import Rotated
from torch import nn

import mipp
from mipp.storage.identity import Identity, summary

pytestmark = pytest.mark.usefixtures("quick")


def pruned(case, **options):
    return mipp.prune(case.model(), case.batches(), mipp.Budget(nodes=0.7), progress=False, **options)


@pytest.mark.parametrize("change", [lambda m: m.angles.add_(1), lambda m: setattr(m, "gain", 2.0)])
def test_a_checkpoint_of_a_model_that_computes_something_else_is_refused(change, tmp_path):
    model, data = Rotated(), [torch.randn(32, 10).bfloat16()]
    mipp.prune(model, data, mipp.Budget(nodes=0.5), progress=False, checkpoint=tmp_path)
    model.train()  # which is no difference
    assert mipp.prune(model, data, mipp.Budget(nodes=0.5), progress=False, checkpoint=tmp_path).resumed
    change(model)
    with pytest.raises(mipp.PlanMismatchError, match=r"not the same model\."):
        mipp.prune(model, data, mipp.Budget(nodes=0.5), progress=False, checkpoint=tmp_path)


class Plain(mipp.methods.OneShot):
    """A method whose `repr` tells its place in memory."""

    def __init__(self, power):
        self.power = power

    def rank(self, task):
        return {name: torch.arange(group.size) ** self.power for name, group in task.graph.groups.items()}


def test_a_method_without_a_record_of_its_own_resumes(tmp_path):
    case = named("residual")
    pruned(case, method=Plain(1), checkpoint=tmp_path)
    assert pruned(case, method=Plain(1), checkpoint=tmp_path).resumed
    with pytest.raises(mipp.PlanMismatchError, match="not the same options"):
        pruned(case, method=Plain(2), checkpoint=tmp_path)


def test_a_checkpoint_is_used_by_the_same_run_and_gives_the_same_result(tmp_path):
    case = named("residual")
    first = pruned(case, checkpoint=tmp_path)
    second = pruned(case, checkpoint=tmp_path)
    assert (first.resumed, second.resumed) == (False, True)
    assert first.plan == second.plan
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("what", "named_as"),
    [
        ("weights", "model"),
        ("activation", "model"),
        ("data", "calibration data"),
        ("labels", "calibration data"),
        ("budget", "options"),
        ("method", "options"),
        ("seed", "options"),
        ("exclude", "options"),
        ("compensate", "options"),
        ("recover", "options"),
        ("memory_limit", "options"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(what, named_as, tmp_path):
    case = named("residual")
    pruned(case, checkpoint=tmp_path)
    model, data, budget, options = case.model(), case.batches(), mipp.Budget(nodes=0.7), {}
    if what == "weights":
        with torch.no_grad():
            model.out.weight[0, 0] += 1e-9
    elif what == "data":
        data[0][0][0, 0, 0, 0] += 1e-9
    elif what == "activation":
        model.bn1.eps *= 2
    elif what == "labels":
        data[0][1][0] += 1
    elif what == "budget":
        budget = mipp.Budget(nodes=0.71)
    else:
        options = {
            "method": {"method": mipp.methods.L1()},
            "seed": {"seed": 1},
            "exclude": {"exclude": ["a"]},
            "compensate": {"compensate": mipp.Refit(ridge=0.1)},
            "recover": {"recover": "distill"},
            "memory_limit": {"memory_limit": "3GB"},
        }[what]
    with pytest.raises(mipp.PlanMismatchError, match=f"checkpoint .* not the same {named_as}\\."):
        mipp.prune(model, data, budget, progress=False, checkpoint=tmp_path, **options)


def weighted(by: list[float]):
    return lambda output, labels: F.cross_entropy(output, labels, torch.tensor(by))


def smoothed(by: float):
    return lambda output, labels: F.cross_entropy(output, labels, label_smoothing=by)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (partial(F.cross_entropy, label_smoothing=0.9), partial(F.cross_entropy, label_smoothing=0.0)),
        (smoothed(0.9), smoothed(0.0)),
        (weighted([1.0, 1.0, 1.0]), weighted([1.0, 2.0, 3.0])),
        (nn.CrossEntropyLoss(weight=torch.arange(1.0, 4)), nn.CrossEntropyLoss()),
        (lambda output, labels: F.cross_entropy(output, labels), lambda output, labels: F.nll_loss(output, labels)),
    ],
)
def test_a_checkpoint_of_another_loss_is_refused_and_one_of_the_same_is_not(first, second, tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    data = [(torch.randn(12, 4), torch.arange(12) % 3)]

    def run(loss):
        options = {"loss_fn": loss, "checkpoint": tmp_path, "progress": False}
        return mipp.prune(model, data, mipp.Budget(nodes=0.5), mipp.methods.Taylor(), **options)

    run(first)
    assert run(copy.deepcopy(first)).resumed
    with pytest.raises(mipp.PlanMismatchError, match="not the same loss_fn"):
        run(second)


def test_a_method_that_changes_weights_resumes_with_its_weights(tmp_path):
    """A resumed run gives what the uninterrupted one gave."""
    case = named("linear chain")
    model = case.model()
    state = {n: 0.5 * t for n, t in model.state_dict().items()}

    class Rewinding(Keep):
        def plan(self, task, budget):
            return super().plan(task, budget), state

    method = Rewinding({"0": (0, 1)})
    runs = [
        mipp.prune(model, case.batches(), mipp.Budget(), method, compensate=False, progress=False, checkpoint=tmp_path)
        for _ in range(2)
    ]
    batch = case.batch(3)
    assert torch.equal(outputs(runs[0].model, batch)[0], outputs(runs[1].model, batch)[0])


def test_a_damaged_checkpoint_is_refused(tmp_path):
    case = named("residual")
    pruned(case, checkpoint=tmp_path)
    file = tmp_path / "journal.jsonl"
    head, *steps = file.read_text().splitlines()
    broken = json.dumps({"step": "plan", "value": {"plan": {}, "changed": False, "notes": []}})
    for lines in (["{"], ["[]"], [], [head, "{", *steps], [head, "[]"], [head, "{}"], [head, broken]):
        file.write_text("".join(f"{line}\n" for line in lines))
        with pytest.raises(mipp.PlanMismatchError):
            pruned(case, checkpoint=tmp_path)


def test_a_step_cut_short_by_a_kill_is_done_again(tmp_path):
    case = named("residual")
    first = pruned(case, checkpoint=tmp_path)
    file = tmp_path / "journal.jsonl"
    content = file.read_bytes()
    head = content.index(b"\n") + 1
    for length in (head, head + 1, (head + len(content)) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        again = pruned(case, checkpoint=tmp_path)
        assert again.resumed
        assert again.plan == first.plan
        pairs = zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert file.read_bytes() == content


def test_a_finished_run_is_not_computed_again(tmp_path, monkeypatch):
    case = named("residual")
    options = {"recover": "distill", "checkpoint": tmp_path}
    first = pruned(case, **options)

    def fail(*_, **__):
        raise AssertionError("computed again")

    for name in ("mipp.methods.MIPP.plan", "mipp.pipeline.finishing.refit", "mipp.pipeline.finishing.distill"):
        monkeypatch.setattr(name, fail)
    again = pruned(case, **options)
    assert again.report.notes == first.report.notes
    pairs = zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(mipp.MippError, match=r"checkpoint folder .* cannot be written"):
        pruned(named("residual"), checkpoint=tmp_path / "file" / "below")


def test_a_changed_line_of_the_right_form_is_refused(tmp_path):
    """Such as a plan with other nodes or other notes: what the journal says is never believed without its checksum."""
    case = named("residual")
    pruned(case, checkpoint=tmp_path)
    file = tmp_path / "journal.jsonl"
    content = file.read_text()
    node = re.search(r'"kept": \{"[^"]+": \[(\d+)', content)[0]
    for old, new in (
        (node, node[:-1] + "9"),
        ('"step": "compensated"', '"step": "recovered"'),
        ('"weights": "', '"weights": "0'),
    ):
        assert old in content
        file.write_text(content.replace(old, new))
        with pytest.raises(mipp.CheckpointError, match="checksum"):
            pruned(case, checkpoint=tmp_path)


def test_other_weights_beside_the_journal_are_refused(tmp_path):
    case = named("residual")
    pruned(case, checkpoint=tmp_path / "one")
    pruned(case, checkpoint=tmp_path / "other", compensate=mipp.Refit(ridge=0.1))
    shutil.copy(tmp_path / "other" / "compensated.safetensors", tmp_path / "one")
    with pytest.raises(mipp.CheckpointError, match="does not hold the weights"):
        pruned(case, checkpoint=tmp_path / "one")
    (tmp_path / "one" / "compensated.safetensors").unlink()
    with pytest.raises(mipp.CheckpointError, match="There is no"):
        pruned(case, checkpoint=tmp_path / "one")


def test_two_runs_cannot_share_a_folder(tmp_path):
    case = named("residual")

    def evaluate(model):
        if (tmp_path / "journal.jsonl").exists():  # while the run is at work
            with pytest.raises(mipp.CheckpointError, match="in use: process"):
                pruned(case, checkpoint=tmp_path)
        return 0.0

    pruned(case, checkpoint=tmp_path, evaluate=evaluate)
    assert pruned(case, checkpoint=tmp_path).resumed


SLOPE = 0.1


class Holding(nn.Module):
    """A slope that no `repr` shows: `held()` gives it."""

    def __init__(self, held):
        super().__init__()
        torch.manual_seed(0)
        self.held, self.a, self.b = held, nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(F.leaky_relu(self.a(x), self.held()))


class Held:
    def __init__(self, value):
        self.value = value

    def __call__(self):
        value = self.value.slope if hasattr(self.value, "slope") else self.value
        return value[0] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "make",
    [
        lambda slope: Held((slope,)),
        lambda slope: Held([slope]),
        lambda slope: Held(SimpleNamespace(slope=slope)),
        lambda slope: lambda: slope,
        lambda slope: partial(float, slope),
        lambda slope: (lambda: SLOPE) if slope == SLOPE else globals().__setitem__("SLOPE", slope) or (lambda: SLOPE),
    ],
    ids=["tuple", "list", "config", "lambda", "partial", "global"],
)
def test_a_number_anywhere_in_the_code_is_part_of_the_model(make, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "SLOPE", 0.1)
    data, options = [torch.randn(32, 4)], {"progress": False, "checkpoint": tmp_path}
    mipp.prune(Holding(make(0.1)), data, mipp.Budget(nodes=0.5), **options)
    assert mipp.prune(Holding(make(0.1)), data, mipp.Budget(nodes=0.5), **options).resumed
    refused = r"not the same model\. .* op \d of its forward pass: 'leaky_relu\(%\d, 0\.3\)' and not '.*0\.1\)'"
    with pytest.raises(mipp.CheckpointError, match=refused):
        mipp.prune(Holding(make(0.3)), data, mipp.Budget(nodes=0.5), **options)


def test_outputs_tell_models_apart_where_ops_do_not():
    found = [Identity({}, (), summary([torch.full((2000,), value)]), (), 1e-4) for value in (1.0, 1.0 + 1e-6, 1.1)]
    assert not found[0].differences(found[1])
    assert "outputs for the first batch, by 0.09" in found[0].differences(found[2])["model"][0]
    one = torch.ones(5000)
    one[17] += 0.5
    assert Identity({}, (), summary([one])).differences(Identity({}, (), summary([torch.ones(5000)])))


def test_another_number_of_threads_is_no_other_run(tmp_path):
    case, threads = named("residual"), torch.get_num_threads()
    pruned(case, checkpoint=tmp_path)
    try:
        torch.set_num_threads(threads + 1)
        assert pruned(case, checkpoint=tmp_path).resumed
    finally:
        torch.set_num_threads(threads)


def test_the_parts_of_options_that_differ_are_named(tmp_path):
    case = named("residual")
    pruned(case, checkpoint=tmp_path)
    with pytest.raises(mipp.CheckpointError, match="What differs of the options: method, seed"):
        pruned(case, checkpoint=tmp_path, method=mipp.methods.L2(), seed=1)
