"""Lightning's trainer prunes while it trains, with the averages its callbacks hold; a checkpoint goes on."""

import pytest
import torch
from networks import normal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mipp

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from mipp.integrations import LightningPruning

pytestmark = [
    pytest.mark.usefixtures("quick"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
DATA = normal(48, 6, seed=1)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


def fit(folder, epochs, callback, module=None, callbacks=(), **options):
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, callbacks=[*callbacks, callback, ModelCheckpoint(folder, "{epoch}", save_top_k=-1)],
    )  # fmt: skip
    module = module or Module()
    trainer.fit(module, DataLoader(TensorDataset(DATA, DATA[:, :3].argmax(1)), 8), **options)
    return trainer, module


def pruning(**options):
    given = {"schedule": mipp.Schedule(macs=[0.8, 0.5], every=1, unit="epochs"), "calibration": [DATA], **options}
    return LightningPruning(**given)


@pytest.mark.parametrize("part", ["", "net"])
def test_the_trainer_prunes_along_the_schedule(tmp_path, part):
    callback = pruning(module=part, schedule=mipp.Schedule(macs=[0.8, 0.5], every=5))
    trainer, module = fit(tmp_path, 3, callback)
    assert trainer.lightning_module is module
    assert mipp.inspect(module.net, DATA).macs <= 0.5 * mipp.inspect(Module().net, DATA).macs
    parameters = list(module.parameters())
    assert [id(p) for p in trainer.optimizers[0].param_groups[0]["params"]] == [id(p) for p in parameters]
    assert all(trainer.optimizers[0].state[p]["step"] == 18 for p in parameters)
    dense = Module().get_submodule(part)
    small = mipp.apply(callback.rounds.plan, dense)
    assert {n: p.shape for n, p in small.named_parameters()} == {
        n: p.shape for n, p in module.get_submodule(part).named_parameters()
    }


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    _, whole = fit(tmp_path / "whole", 4, pruning())
    fit(tmp_path / "part", 2, pruning())
    path = tmp_path / "part/epoch=1.ckpt"
    callback = pruning(resume=path)
    _, resumed = fit(tmp_path / "resumed", 4, callback, ckpt_path=path)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())
    assert len(callback.rounds.reports) == 0  # both rounds were before the checkpoint
    with pytest.raises(mipp.PlanMismatchError, match="cannot be read"):
        fit(tmp_path / "other", 4, pruning(resume=tmp_path / "none.ckpt"))


def test_averages_that_callbacks_hold_are_cut(tmp_path):
    averaging = WeightAveraging(avg_fn=lambda average, own, _: 0.9 * average + 0.1 * own)
    _, module = fit(tmp_path, 3, pruning(), callbacks=[averaging])
    assert mipp.inspect(module.net, DATA).macs <= 0.5 * mipp.inspect(Module().net, DATA).macs
    path = tmp_path / "epoch=1.ckpt"
    averaging = WeightAveraging(avg_fn=lambda average, own, _: 0.9 * average + 0.1 * own)
    _, resumed = fit(tmp_path / "resumed", 3, pruning(resume=path), callbacks=[averaging], ckpt_path=path)
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in resumed.state_dict().items())
