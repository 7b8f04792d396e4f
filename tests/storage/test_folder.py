"""Law 9: what is saved comes back bit for bit, and what does not fit is refused by name."""

import os
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import PRUNABLE, Keep, named, outputs
from cases import pruned as pruned_once
from networks import (
    Rotated,
    Stateful,
    halve,
    image_batches,
    image_network,
    normal,
    prune_images,
    refused,
    squared_error,
)
from safetensors.torch import load_file, save_file
from torch import nn

import mipp
from mipp.storage.places import new_file, new_folder

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


def test_buffers_that_are_not_saved_come_back_in_their_types(tmp_path):
    model, x = Rotated(), torch.randn(32, 10).bfloat16()
    result = mipp.prune(model, [x], mipp.Budget(nodes=0.5), progress=False)
    result.save(tmp_path / "run")
    again = mipp.load(tmp_path / "run", model)
    assert again.angles.dtype is torch.float32
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))


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


def test_nothing_is_left_in_a_folder_that_could_not_be_filled(tmp_path, monkeypatch):
    result = pruned(named("linear chain"))
    replace, calls = Path.replace, []

    def failing(self, target):
        if tmp_path / "run" in (target, target.parent):
            calls.append(target)
        if len(calls) in (1, 4) and calls[-1] == target:  # the folder as a whole, and then the third file
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


@contextmanager
def full_disk():
    """No file may grow beyond 2 kB, those that pytest itself writes included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    result = prune_images()
    with pytest.raises(mipp.MippError, match="enough room"), full_disk():
        result.save(tmp_path / "run")
    with pytest.raises(mipp.MippError, match=r"checkpoint folder .* cannot be written"), full_disk():
        prune_images(checkpoint=tmp_path / "point", exclude=["0"])
    with pytest.raises(mipp.MippError, match="TMPDIR"), full_disk():
        prune_images(data=iter(image_batches()), memory_limit=1000)
    left = {path.name for path in tmp_path.rglob("*")} - {"lock"}
    assert left in (set(), {"point"}, {"point", "journal.jsonl"})


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


def test_what_is_no_model_is_refused_by_load(tmp_path):
    prune_images().save(tmp_path / "small")
    for wrong in (None, image_network().state_dict()):
        assert "expected a plan and the model it is for" in refused(lambda w=wrong: mipp.load(tmp_path / "small", w))


def test_an_empty_folder_is_filled_even_where_somebody_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prune_images().save(".")
    assert mipp.load(tmp_path, image_network())(image_batches()[0]).shape == (16, 4)


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


class Versioned(nn.Linear):
    """Refuses weights without the version of the class."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") not in (1, 2):
            raise ValueError("version should be 1 or 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Migrating(nn.Linear):
    """Halves the weights that earlier versions saved."""

    _version = 3

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if (metadata.get("version") or 1) < 3:
            state[prefix + "weight"] = state[prefix + "weight"] / 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Hooked(nn.Linear):
    """Doubles what it loads."""

    def __init__(self, *widths):
        super().__init__(*widths)
        self.register_load_state_dict_pre_hook(
            lambda _, state, prefix, *rest: state.update({prefix + "weight": 2 * state[prefix + "weight"]})
        )


class Packed(nn.Linear):
    """Saves its weight in another form than it computes with."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"] * 16

    def _load_from_state_dict(self, state, prefix, *rest):
        super()._load_from_state_dict(state | {prefix + "weight": state[prefix + "weight"] / 16}, prefix, *rest)


@pytest.mark.parametrize("kind", [Versioned, Migrating, Hooked, Packed])
@pytest.mark.parametrize("method", [mipp.methods.MIPP(), mipp.methods.Reinitialised(mipp.methods.L1())])
def test_an_overridden_way_of_loading_does_not_change_weights(kind, method, tmp_path):
    model = nn.Sequential(kind(6, 12), nn.ReLU(), kind(12, 4)).eval()
    result = mipp.prune(model, [normal(32, 6)], mipp.Budget(nodes=0.5), method, progress=False)
    result.save(tmp_path / "out")
    loaded = mipp.load(tmp_path / "out", model)
    assert torch.equal(loaded(normal(5, 6)), result.model(normal(5, 6)))


@pytest.mark.skipif(os.name == "nt", reason="needs modes of files")
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_folders_and_files_have_the_modes_that_the_user_sets(mask, tmp_path):
    """Whoever may read one file may read all: weights as plans, checkpoints as results, files of one's own making."""
    model, data = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), [normal(8, 4), normal(8, 4)]
    before = os.umask(mask)
    try:
        options = {"recover": "distill", "checkpoint": tmp_path / "checkpoint"}
        mipp.prune(model, data, mipp.Budget(nodes=0.5), progress=False, **options).save(tmp_path / "out")
        with new_folder(tmp_path / "other") as part:
            save_file({"a": torch.ones(2)}, part / "model.safetensors")
        with new_file(tmp_path / "one.safetensors") as part:
            save_file({"a": torch.ones(2)}, part)
    finally:
        os.umask(before)
    found = {(path.is_dir(), path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.name != "lock"}
    assert found == {(True, 0o777 & ~mask), (False, 0o666 & ~mask)}
