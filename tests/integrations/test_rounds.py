"""Rounds of pruning in a training: what holds the model goes on, and a checkpoint goes on to the same end."""

import copy
import json
import weakref

import pytest
import torch
from networks import normal
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import mipp
from mipp.integrations import Rounds

pytestmark = pytest.mark.usefixtures("quick")
DATA = [normal(32, 6, seed=seed) for seed in range(2)]
SCHEDULE = mipp.Schedule(macs=[0.8, 0.5], every=3)


def network():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
    return nn.Sequential(*first, nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


class Training:
    """A complete loop: AdamW, a scheduler, a GradScaler and an average."""

    def __init__(self):
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        self.scaler = torch.amp.GradScaler("cpu")
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.rounds = Rounds(SCHEDULE, DATA, averages=[self.average], compensate=False)
        self.step = 0

    def train(self, steps):
        for _ in range(steps):
            self.step += 1
            x = normal(16, 6, seed=self.step)
            loss = nn.functional.cross_entropy(self.model(x), x[:, :3].argmax(1))
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            self.average.update_parameters(self.model)
            self.rounds.advance(self.model, [self.optimizer], self.step)

    PARTS = ("model", "optimizer", "scheduler", "scaler", "average")

    def state(self):
        state = {name: copy.deepcopy(getattr(self, name).state_dict()) for name in self.PARTS}
        return state | {"rounds": json.loads(json.dumps(self.rounds.state_dict())), "step": self.step}

    def load(self, state):
        self.rounds.restore(self.model, state["rounds"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 20)
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def macs(model):
    return mipp.inspect(model, DATA[0]).macs


def test_a_training_goes_on_with_the_objects_it_has():
    training = Training()
    held = [*training.model.modules(), training.optimizer]
    training.train(9)
    assert [*training.model.modules(), training.optimizer] == held
    assert macs(training.model) <= 0.5 * macs(network())
    assert macs(training.model) > 0.4 * macs(network())  # fractions are of the first model
    assert len(training.rounds.reports) == 2
    assert all(p in training.optimizer.state for p in training.model.parameters())
    assert {n: p.shape for n, p in training.average.module.named_parameters()} == {
        n: p.shape for n, p in training.model.named_parameters()
    }
    before = training.model[0].weight.clone()
    training.train(1)
    assert not torch.equal(before, training.model[0].weight)


def test_the_plan_of_all_rounds_is_for_the_first_model():
    training = Training()
    training.train(8)
    small = mipp.apply(training.rounds.plan, network())
    small.load_state_dict(training.model.state_dict())
    assert torch.equal(small.eval()(DATA[0]), training.model.eval()(DATA[0]))


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_a_checkpoint_goes_on_to_the_same_weights(stop):
    whole, part, resumed = Training(), Training(), Training()
    whole.train(10)
    part.train(stop)
    resumed.load(part.state())
    resumed.train(10 - stop)
    ours, theirs = (t.state() for t in (resumed, whole))
    for name in ("model", "average"):
        assert all(torch.equal(value, theirs[name][key]) for key, value in ours[name].items())
    assert resumed.rounds.plan == whole.rounds.plan
    assert ours["scheduler"]["last_epoch"] == theirs["scheduler"]["last_epoch"] == 10


def test_parameters_of_other_models_stay_in_the_optimiser():
    model, head = network(), nn.Linear(3, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    head(model(DATA[0])).square().mean().backward()
    optimizer.step()
    momentum = optimizer.state[head.weight]["momentum_buffer"]
    Rounds(SCHEDULE, DATA).advance(model, [optimizer], 3)
    assert optimizer.state[head.weight]["momentum_buffer"] is momentum
    own = [*model.parameters(), *head.parameters()]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in own]


def test_the_dense_parameters_are_let_go():
    training = Training()
    dense = weakref.ref(training.model[0].weight)
    training.train(3)
    assert dense() is None


def test_a_failed_round_leaves_the_training_as_it_was():
    training = Training()
    training.train(2)
    before = training.state()
    training.rounds.calibration = []
    with pytest.raises(mipp.CalibrationError):
        training.rounds.advance(training.model, [training.optimizer], 3)
    assert all(torch.equal(value, before["model"][key]) for key, value in training.model.state_dict().items())
    assert training.rounds.plan is None


@pytest.mark.parametrize(
    "state",
    [{"done": 1}, {"done": "1", "reached": {}, "plan": None}, {"done": 1, "reached": {"macs": "x"}, "plan": None},
     {"done": 1, "reached": [], "plan": None}, {"done": 1, "reached": {}, "plan": 3}, [], None, 3],
    ids=str,
)  # fmt: skip
def test_a_damaged_state_is_refused(state):
    with pytest.raises(mipp.PlanMismatchError, match="damaged"):
        Rounds(SCHEDULE, DATA).restore(network(), state)
