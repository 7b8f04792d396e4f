"""Hints are given where there is evidence that inputs are not what a model was trained on."""

import pytest
import torch
from cases import Net
from networks import image_network, refused
from torch import nn

import mipp
from mipp.graph.hints import BatchNormInput, PassEnded, hint_at_inputs, trained_batch_norms


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "bytes (uint8)"),
        (torch.zeros(2, 8, 8, 3), "images.permute(0, 3, 1, 2)"),
        (torch.zeros(2, 3, 8, 8), ""),
        (torch.zeros(2, 5, 8, 8), ""),
    ],
)
def test_bytes_and_channels_that_come_last_are_named(images, hint):
    found = hint_at_inputs(image_network(), [images])
    assert hint in found if hint else found == ""


def test_a_batch_norm_notices_data_of_another_scale_once_it_was_trained():
    norm = nn.BatchNorm2d(4, momentum=None)
    assert trained_batch_norms(nn.Sequential(norm)) == {}
    images = torch.randn(64, 4, 5, 5)
    norm(images)
    norm.num_batches_tracked.zero_()  # as in weights of old
    assert trained_batch_norms(nn.Sequential(norm)) == {norm: "0"}
    same, other = BatchNormInput({norm: "0"}), BatchNormInput({norm: "0"})
    for watch, seen in (same, images), (other, 10 * images):
        with pytest.raises(PassEnded):
            watch(norm, (seen,))
    assert same.sentence == ""
    assert "'0' reads values whose variance is 1" in other.sentence


def test_a_model_that_takes_gradients_in_its_forward_pass_is_told_so():
    """As those do whose forces are gradients of an energy; they run without gradients, too."""

    def forces(m, x):
        with torch.enable_grad():
            places = x.detach().requires_grad_()
            return torch.autograd.grad(m.energy(places).sum(), places)[0]

    net = Net(forces, energy=nn.Linear(3, 1))
    with torch.no_grad():
        net(torch.randn(2, 3))
    message = refused(lambda: mipp.inspect(net, torch.randn(2, 3)))
    assert "takes gradients" in message
    assert "give it the module that is differentiated" in message


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_model_whose_attention_pruning_cannot_look_into_is_told_which_others_there_are():
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention

    def attend(m, x):
        q = m.q(x).unflatten(-1, (2, 16)).transpose(1, 2)
        return m.o(flex(q, q, q).transpose(1, 2).flatten(2))

    net = Net(attend, q=nn.Linear(8, 32), o=nn.Linear(32, 4))
    assert 'choose "sdpa" or "eager"' in refused(lambda: mipp.inspect(net, torch.randn(2, 6, 8)))
