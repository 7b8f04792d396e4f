"""Every form of calibration data gives the same batches, is read once, and is refused where it cannot be used."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CORE, named
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    Once,
    assert_equal_results,
    halve,
    image_batches,
    linear_layers,
    normal,
    prune_chain,
    prune_images,
    refusal,
    squared_error,
    vectors,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mipp
from mipp.data.calibration import Batch, read
from mipp.graph.call import Call

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(
    "odd", [torch.randn(4, 2, 8, 8), torch.randn(4, 3, 8, 8).double(), torch.zeros(4, 3, 8, 8, dtype=torch.int64)]
)
def test_a_later_batch_of_another_shape_or_type_is_refused_by_number(odd):
    assert "batch 1" in refusal(data=[image_batches()[0], odd])


def test_too_few_samples_are_used_and_said():
    notes = prune_images(data=mipp.Calibration(image_batches(1, 6), max_samples=10)).report.notes
    assert any("6 samples" in note and "10" in note for note in notes)
    assert not any(
        note.startswith("Calibrated on")
        for note in prune_images(data=mipp.Calibration(image_batches(1, 6), max_samples=6)).report.notes
    )


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


def scaled(m, x, t):
    return m.c(F.relu(m.b(F.relu(m.a(x * t)))))


def test_a_number_among_the_inputs_is_that_of_its_batch():
    model = linear_layers(scaled, 6, 32, 32, 3)
    calls = [(normal(64, 6, seed=n), t) for n, t in enumerate((0.1, 3.0, -2.0, 5.0))]
    numbers = halve(model, [(call,) for call in calls])
    tensors = halve(model, [((x, torch.tensor(t)),) for x, t in calls])
    assert squared_error(numbers.model, model, calls) == pytest.approx(
        squared_error(tensors.model, model, calls), rel=1e-3
    )
    assert squared_error(numbers.model, model, calls) < 0.5 * squared_error(
        mipp.apply(numbers.plan, model), model, calls
    )


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


class Bundle:
    """A batch that knows itself."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.me = x, self


def test_batches_may_hold_themselves():
    model = linear_layers(lambda m, x: m.b(F.relu(m.a(x))), 6, 16, 3)
    data = mipp.Calibration([Bundle(normal(50, 6))], forward=lambda m, batch: m(batch.me.x))
    assert halve(model, data).plan == halve(model, [normal(50, 6)]).plan


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


@pytest.mark.parametrize("method", CORE)
def test_the_data_are_read_once_and_no_further_than_needed(method):
    data = Once([vectors(10, i) for i in range(8)])
    prune_chain(data=mipp.Calibration(data, max_samples=25), method=mipp.methods.all()[method]())
    assert data.taken == 3


def test_exactly_the_first_samples_count():
    x = vectors(50)
    assert_equal_results(
        prune_chain(data=mipp.Calibration([x[:30], x[30:]], max_samples=37)), prune_chain(data=[x[:37]])
    )


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


def test_one_tensor_or_dict_is_one_batch():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    for data in (torch.randn(16, 3), {"input": torch.randn(16, 3)}):
        assert mipp.prune(model, mipp.Calibration(data), mipp.Budget(nodes=0.5), progress=False).plan.widths == {"0": 3}


@pytest.mark.parametrize(
    ("raw", "said", "hint"),
    [
        ({"input_ids": [[1, 2], [3, 4]]}, "a dict of whole numbers, such as token ids", 'return_tensors="pt"'),
        (["a text", "another"], "a list of text", "A tokenizer makes tensors"),
        (np.ones(3), "a ndarray", "torch.from_numpy"),
    ],
)
def test_data_without_tensors_are_described_with_what_makes_tensors_of_them(raw, said, hint):
    with pytest.raises(mipp.CalibrationError) as refused:
        read(mipp.Calibration([raw]), None)
    assert f"(it is {said})" in str(refused.value)
    assert hint in str(refused.value)
    with pytest.raises(mipp.MippError, match=said):
        mipp.inspect(nn.Embedding(5, 3), raw)


def test_an_input_without_dimensions_is_pruned_for():
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    ids = [torch.tensor(3), torch.tensor(5), torch.tensor(1)]
    assert mipp.prune(model, ids, mipp.Budget(nodes=0.5), progress=False).model(ids[0]).shape == (2,)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), stride=st.integers(1, 7), first=st.integers(0, 20))
def test_a_run_of_samples_gives_one_however_they_are_batched(sizes, stride, first):
    total = sum(sizes)
    x, names = torch.arange(first, first + total)[:, None], [str(n) for n in range(first, first + total)]
    whole = Batch(Call((x,), {"names": names}), total).thinned(stride, first)
    starts = np.cumsum([0, *sizes[:-1]])
    batches = [Batch(Call((x[a : a + n],), {"names": names[a : a + n]}), n) for a, n in zip(starts, sizes, strict=True)]
    parts = [batch.thinned(stride, first + start) for batch, start in zip(batches, starts, strict=True)]
    parts = [part for part in parts if part is not None]
    chosen = [number for part in parts for number in part.call.args[0][:, 0].tolist()]
    assert chosen == ([] if whole is None else whole.call.args[0][:, 0].tolist())
    assert [name for part in parts for name in part.call.kwargs["names"]] == list(map(str, chosen))
    assert sum(part.samples for part in parts) == len(chosen)
    runs = [number // stride for number in chosen]
    assert len(set(runs)) == len(runs)
    assert set(runs) >= set(range(-(-first // stride), (first + total) // stride))


def test_classes_that_take_turns_are_all_seen():
    thinned = Batch(Call((torch.arange(1000)[:, None],)), 1000).thinned(4, 0)
    assert torch.bincount(thinned.call.args[0][:, 0] % 10).min() >= 20


def test_what_has_no_samples_to_choose_among_stays_whole():
    batch = Batch(Call((torch.randn(8, 2), torch.tensor(1.0))), 8)
    assert batch.thinned(4, 0) is batch
