"""Tensors beyond the memory limit: the same bits, no more memory, nothing left behind."""

import math
import tempfile
from collections.abc import Iterator
from functools import partialmethod

import pytest
import torch
from cases import Keep, Net, named
from torch import nn

import mipp
from mipp.runtime.tensor_store import TensorStore, as_bytes


def strange_tensors() -> list[torch.Tensor]:
    """Views, strides, shared memory and all kinds of elements."""
    base = torch.randn(4, 6, 5, 5)
    return [
        base, base[:, 2:4], base.transpose(1, 2), base[1:, ::2], torch.randn(1, 3).expand(4, 3), torch.tensor(2.5),
        torch.empty(0, 3), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.arange(7), torch.tensor([True, False]), torch.randn(3).bfloat16(), torch.randn(2, dtype=torch.complex64),
        torch.randn(9, dtype=torch.float64)[1::2],
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [0, 10**6])
def test_what_comes_back_has_the_same_bits_strides_and_sharing(limit):
    tensors = strange_tensors()
    stored = TensorStore(limit).shelf().put(tensors)
    for _ in range(2):
        again = stored.load()
        for a, b in zip(again, tensors, strict=True):
            assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
            assert torch.equal(a, b)
            assert a.data_ptr() % 64 == b.data_ptr() % 64 or not a.numel()
        assert again[1].data_ptr() == again[0][:, 2:4].data_ptr()


def test_writing_into_what_came_back_does_not_reach_the_file():
    stored = TensorStore(0).shelf().put([torch.ones(3)])
    stored.load()[0].zero_()
    assert torch.equal(stored.load()[0], torch.ones(3))


def test_the_limit_is_kept_and_memory_given_back():
    store = TensorStore(1000)
    shelf = store.shelf()
    kept = [shelf.put([torch.zeros(100)]) for _ in range(5)]
    assert store.used <= 1000
    assert store.most_on_disk >= 3 * 400
    before = store.most_on_disk
    for stored in kept:
        stored.release()
    assert store.used == 0
    shelf.put([torch.zeros(200)])
    assert store.most_on_disk == before


def test_only_what_a_view_covers_is_written():
    piece = torch.zeros(10**6)[500:600]
    store = TensorStore(0)
    store.shelf().put([piece])
    assert store.most_on_disk <= 4096


def test_no_file_can_be_found_while_tensors_are_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shelf = TensorStore(0).shelf()
    stored = shelf.put([torch.ones(5000)])
    assert list(tmp_path.iterdir()) == []
    assert float(stored.load()[0].sum()) == 5000


@pytest.mark.parametrize(
    ("limit", "number"), [(7, 7), ("7", 7), ("500MB", 5 * 10**8), ("2 gb", 2 * 10**9), ("1.5GiB", 3 * 2**29)]
)
def test_limits_are_bytes_or_have_a_unit(limit, number):
    assert as_bytes(limit) == number


@pytest.mark.parametrize("limit", [0, -1, "", "much", "2 XB", "GB", True, 1.5j, "0GB"])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises(mipp.MippError, match="'2GB'"):
        as_bytes(limit)


def streams(seed: int = 0) -> Iterator[torch.Tensor]:
    """Calibration batches that nobody holds."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(6))


def pruned(name: str = "cifar resnet", data=None, **options) -> mipp.Result:
    case = named(name)
    data = data or (streams() if name == "cifar resnet" else iter(case.batches(6)))
    return mipp.prune(case.model(), data, mipp.Budget(macs=0.6), progress=False, **options)


@pytest.fixture
def on_disk(monkeypatch):
    """Everything goes to disk, and every statistic fits."""
    monkeypatch.setattr(
        "mipp.runtime.tensor_store.TensorStore.__init__", partialmethod(_without_memory, TensorStore.__init__)
    )


def _without_memory(self, init, limit):
    init(self, 0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar resnet", {"recover": mipp.Distillation(by="network", epochs=10, seconds=math.inf)}),
        ("concatenation", {}),
        ("tied weights", {}),
        ("several inputs", {}),
    ],
)
def test_a_run_on_disk_gives_the_bits_of_a_run_in_memory(name, options, quick, request):
    expected = pruned(name, **options)
    request.getfixturevalue("on_disk")
    found = pruned(name, **options)
    assert found.plan == expected.plan
    pairs = zip(found.model.state_dict().values(), expected.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any("temporary files" in note for note in found.report.notes)
    assert not any("temporary files" in note for note in expected.report.notes)


def test_a_view_of_a_refitted_weight_follows_it_also_from_disk(quick, request):
    """The transposed weight is computed before the layer that owns it is refitted, and read after."""

    def forward(m, x):
        transposed = m.b.weight.t()
        h = m.a(x).relu()
        return m.c((nn.functional.linear(m.b(h), transposed) + h).relu())

    def run():
        torch.manual_seed(3)
        model = Net(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 6, bias=False), c=nn.Linear(8, 3))
        return mipp.prune(
            model, iter([torch.randn(64, 4)]), None, Keep({"b": (1, 2), "b#2": (0, 3, 5)}), progress=False
        )

    expected = run()
    request.getfixturevalue("on_disk")
    assert torch.equal(run().model.c.weight, expected.model.c.weight)


def test_batches_that_the_caller_holds_are_not_written(quick):
    held = list(streams())
    notes = pruned(data=held, memory_limit=2 * 10**6, compensate=False).report.notes
    assert not any("temporary" in note for note in notes)
    notes = pruned(data=iter(held), memory_limit=20_000, compensate=False).report.notes
    assert any("temporary" in note for note in notes)


def test_freed_memory_is_given_back_where_some_went_to_files(monkeypatch):
    given: list[bool] = []
    monkeypatch.setattr("mipp.runtime.tensor_store.give_back", lambda: given.append(True))
    for limit, expected in ((1e6, 0), (10, 1)):
        store = TensorStore(limit)
        store.shelf().put([torch.ones(100)])
        store.give_back()
        assert len(given) == expected
