"""Law 9: what is saved comes back bit for bit, and what does not fit is refused by name."""

import copy
import dataclasses
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import PRUNABLE, Keep, named, outputs
from cases import pruned as pruned_once
from safetensors.torch import load_file, save_file
from torch import nn

import mipp
from mipp.storage.fingerprint import hash_function

pytestmark = pytest.mark.usefixtures("quick")
prunable = pytest.mark.parametrize("case", PRUNABLE, ids=str)


def pruned(case, **options):
    return mipp.prune(case.model(), case.batches(), mipp.Budget(nodes=0.7), progress=False, **options)


@prunable
def test_a_loaded_model_computes_the_same_bits(case, tmp_path):
    result = pruned_once(case)
    result.save(tmp_path / "run")
    batch = case.batch(3, 5)
    expected = outputs(result.model, batch)
    dense = case.model()
    before = {n: t.clone() for n, t in dense.state_dict().items()}
    for source in (dense, case.model):  # an instance, or what makes one
        found = outputs(mipp.load(tmp_path / "run", source), batch)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(t, before[n]) for n, t in dense.state_dict().items())


def test_a_dense_model_of_other_weights_is_enough(tmp_path):
    case = named("residual")
    result = pruned(case)
    result.save(tmp_path / "run")
    fresh = case.build().double().eval()
    batch = case.batch(3, 5)
    pairs = zip(outputs(mipp.load(tmp_path / "run", fresh), batch), outputs(result.model, batch), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_come_back_bit_for_bit(dtype, tmp_path):
    case = named("linear chain")
    model = case.model().to(dtype)
    data = [case.batch(8, i).to(dtype) for i in range(2)]
    result = mipp.prune(model, data, mipp.Budget(nodes=0.7), progress=False)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    result.save(tmp_path / "run")
    again = mipp.load(tmp_path / "run", case.model().to(dtype))
    assert torch.equal(outputs(again, data[0])[0], outputs(result.model, data[0])[0])


class Rotated(nn.Module):
    """Angles in another type than the weights, which are not saved, and a number beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.gain = nn.Linear(10, 16).bfloat16(), nn.Linear(16, 4).bfloat16(), 1.0
        self.register_buffer("angles", torch.rand(10) + 0.1, persistent=False)

    def forward(self, x):
        return self.b((self.a((x * self.angles * self.gain).cos().bfloat16())).relu())


def test_buffers_that_are_not_saved_come_back_in_their_types(tmp_path):
    model, x = Rotated(), torch.randn(32, 10).bfloat16()
    result = mipp.prune(model, [x], mipp.Budget(nodes=0.5), progress=False)
    result.save(tmp_path / "run")
    again = mipp.load(tmp_path / "run", model)
    assert again.angles.dtype is torch.float32
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))


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


def test_the_folder_holds_no_pickle(tmp_path):
    pruned(named("residual")).save(tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"plan.json", "model.safetensors", "report.html"} <= names
    assert all(name.endswith((".json", ".safetensors", ".html")) for name in names)


def test_the_saved_plan_is_the_plan(tmp_path):
    result = pruned(named("residual"))
    result.save(tmp_path / "run")
    assert mipp.load_plan(tmp_path / "run" / "plan.json") == result.plan
    assert mipp.load_plan(str(tmp_path / "run" / "plan.json")) == result.plan


def test_added_biases_are_loaded(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    data = [torch.randn(20, 4).double()]
    options = mipp.Refit(allow_bias=True)
    result = mipp.prune(model, data, mipp.Budget(), Keep({"0": (0, 1)}), compensate=options, progress=False)
    assert result.model[2].bias is not None
    result.save(tmp_path / "run")
    again = mipp.load(tmp_path / "run", model)
    assert torch.equal(again(data[0]), result.model(data[0]))
    assert model[2].bias is None


@pytest.mark.parametrize("name", ["tied weights", "two parameters over one storage"])
def test_tied_weights_are_tied_after_loading(name, tmp_path):
    case = named(name)
    pruned(case).save(tmp_path / "run")
    again = mipp.load(tmp_path / "run", case.model())
    first, second = (again.embed, again.head) if name == "tied weights" else (again.b, again.c)
    assert first.weight.data_ptr() == second.weight.data_ptr()


def test_emptied_groups_come_back_silent(tmp_path):
    case = named("linear chain")
    result = mipp.prune(
        case.model(), case.batches(), mipp.Budget(min_keep=0), Keep({"0": ()}), compensate=False, progress=False
    )
    result.save(tmp_path / "run")
    again = mipp.load(tmp_path / "run", case.model())
    batch = case.batch(3)
    assert torch.equal(outputs(again, batch)[0], outputs(result.model, batch)[0])
    assert mipp.load_plan(tmp_path / "run" / "plan.json").collapsed == ("0",)


def test_the_training_mode_is_that_of_the_model_given(tmp_path):
    case = named("dropout")
    pruned(case).save(tmp_path / "run")
    assert mipp.load(tmp_path / "run", case.model().train()).training
    assert not mipp.load(tmp_path / "run", case.model().eval()).training


def test_the_wrong_model_is_refused_naming_the_first_mismatch(tmp_path):
    pruned(named("linear chain")).save(tmp_path / "run")
    wrong = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    with pytest.raises(mipp.PlanMismatchError, match=r"'2\.weight'.*\(5, 6\).*\(9, 6\)"):
        mipp.load(tmp_path / "run", wrong)
    with pytest.raises(mipp.PlanMismatchError, match=re.escape("'0.weight'")):
        mipp.load(tmp_path / "run", named("residual").model())


def test_a_model_without_values_is_refused(tmp_path):
    case = named("residual")
    pruned(case).save(tmp_path / "run")
    with torch.device("meta"):
        empty = case.build()
    with pytest.raises(mipp.MippError, match="on the meta device"):
        mipp.load(tmp_path / "run", empty)


def test_loading_into_the_pruned_model_is_refused(tmp_path):
    result = pruned(named("linear chain"))
    result.save(tmp_path / "run")
    with pytest.raises(mipp.PlanMismatchError):
        mipp.load(tmp_path / "run", result.model)


@pytest.mark.parametrize("file", ["plan.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "empty"])
def test_a_damaged_folder_is_refused_naming_the_file(file, damage, tmp_path):
    case = named("linear chain")
    pruned(case).save(tmp_path / "run")
    path = tmp_path / "run" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "garbage": b"\x80\x04\x95pickle", "empty": b""}[damage]
        )
    with pytest.raises(mipp.PlanMismatchError, match=re.escape(file)):
        mipp.load(tmp_path / "run", case.model())


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(mipp.PlanMismatchError, match="nowhere"):
        mipp.load(tmp_path / "nowhere", named("linear chain").model())
    with pytest.raises(mipp.PlanMismatchError, match="nowhere"):
        mipp.load_plan(tmp_path / "nowhere.json")


def test_weights_of_another_run_are_refused_by_name(tmp_path):
    case = named("linear chain")
    pruned(case).save(tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    weights = load_file(file)
    for change in ("shape", "missing", "extra"):
        changed = dict(weights)
        if change == "shape":
            changed["0.bias"] = torch.zeros(6, dtype=torch.float64)
        elif change == "missing":
            del changed["0.bias"]
        else:
            changed["7.weight"] = torch.zeros(1)
        save_file(changed, file)
        with pytest.raises(mipp.PlanMismatchError, match=r"7\.weight" if change == "extra" else r"0\.bias"):
            mipp.load(tmp_path / "run", case.model())


def test_nothing_is_overwritten(tmp_path):
    result = pruned(named("linear chain"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(mipp.MippError, match=name):
            result.save(tmp_path / name)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    result.save(tmp_path / "deep" / "down")
    assert (tmp_path / "deep" / "down" / "plan.json").exists()


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    result = pruned(named("linear chain"))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mipp.storage.folder.save_file", fail)
    with pytest.raises(mipp.MippError, match="space"):
        result.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# --- checkpoints ------------------------------------------------------------------------------------------------------


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


def smoothed(by: float):
    return lambda output, labels: F.cross_entropy(output, labels, label_smoothing=by)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (partial(F.cross_entropy, label_smoothing=0.9), partial(F.cross_entropy, label_smoothing=0.0)),
        (smoothed(0.9), smoothed(0.0)),
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


class Focal:
    def __init__(self, gamma: float):
        self.gamma, self.seen = gamma, []

    def __call__(self, output, labels):
        self.seen.append(len(output))
        return F.cross_entropy(output, labels) * self.gamma

    def fit(self, model, **options):
        self.seen.append(model)


@dataclasses.dataclass
class Settings:
    rate: float


def closing_over(value):
    return lambda: value


OTHERS = [
    (Focal(1.0), Focal(2.0)),
    (Focal(1.0).fit, Focal(2.0).fit),
    (closing_over(np.zeros(2)), closing_over(np.ones(2))),
    (closing_over(np.float32(1)), closing_over(np.float32(2))),
    (closing_over(torch.zeros(2)), closing_over(torch.ones(2))),
    (closing_over((1, 2)), closing_over((1, 3))),
    (closing_over(Settings(0.1)), closing_over(Settings(0.2))),
    (closing_over(torch.float16), closing_over(torch.bfloat16)),
    (closing_over(frozenset("ab")), closing_over(frozenset("ac"))),
    (partial(sum, start=1), partial(sum, start=2)),
    (F.cross_entropy, F.nll_loss),
    (None, F.nll_loss),
]


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_functions_are_told_apart_by_what_they_hold(one, other):
    assert hash_function(one) == hash_function(copy.deepcopy(one))
    assert hash_function(one) != hash_function(other)


def test_what_grows_as_a_function_runs_is_no_part_of_it():
    losses: list[float] = []

    def train(model):
        losses.append(1.0)

    before, loss = hash_function(train), Focal(1.0)
    called = hash_function(loss)
    train(None)
    loss(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
    assert hash_function(train) == before
    assert hash_function(loss) == called


def test_odd_functions_can_be_described():
    def outer(x):
        return outer(x), late

    assert hash_function(outer) == hash_function(outer)  # it holds itself, and a name that is not set yet
    late = torch.zeros(3, device="meta")
    assert hash_function(outer) != hash_function(lambda x: x)
    shared: tuple = ()
    for _ in range(60):
        shared = (shared, shared)
    assert hash_function(closing_over(shared))


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
    for length in (head, head + 1, len(content) // 2, len(content) - 1):
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


def test_nothing_is_left_in_a_folder_that_could_not_be_filled(tmp_path, monkeypatch):
    result = pruned(named("linear chain"))
    replace, calls = Path.replace, []

    def failing(self, target):
        calls.append(target)
        if len(calls) in (1, 4):  # the folder as a whole, and then the third file
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    (tmp_path / "run").mkdir()
    with pytest.raises(mipp.MippError, match="nothing was left behind"):
        result.save(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_another_process_filled_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    result, folder = pruned(named("linear chain")), tmp_path / "run"

    def filled(self, path):
        folder.mkdir()
        (folder / "report.html").write_text("theirs")
        path.write_text("ours")

    monkeypatch.setattr("mipp.report.Report.to_html", filled)
    with pytest.raises(mipp.MippError, match="nothing was left behind"):
        result.save(folder)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("report.html", "theirs")]
