"""`transformers.Trainer` prunes while it trains, and a checkpoint of such a run goes on."""

import pytest
import torch

import mipp

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # Trainer needs it

from llamas import ids, llama  # noqa: E402

from mipp.integrations import TrainerPruning  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick")
SCHEDULE = mipp.Schedule(params=[0.9, 0.75], every=2)


def trainer(folder, model=None, schedule=SCHEDULE, resume=None, **options):
    data = [{"input_ids": row, "labels": row} for row in ids(24)["input_ids"]]
    settings = {
        "output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "save_steps": 3, "seed": 3,
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-3, "logging_steps": 100,
        "dataloader_pin_memory": False, **options,
    }  # fmt: skip
    callback = TrainerPruning(schedule, [ids(8)], resume=resume, exclude=["model.embed_tokens"])
    made = transformers.Trainer(
        model=llama() if model is None else model,
        args=transformers.TrainingArguments(**settings),
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=[callback],
    )
    return made, callback.rounds


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    made, rounds = trainer(folder)
    made.train()
    return made, rounds, folder


def test_the_trainer_prunes_along_the_schedule(whole):
    made, rounds, _ = whole
    assert size(made.model) <= 0.75 * size(llama())
    assert len(rounds.reports) == 2
    assert made.model_wrapped is made.model
    held = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in made.model.parameters()}
    assert all(made.optimizer.state[p]["step"] == 6 for p in made.model.parameters())  # moments went on


def test_checkpoints_load_with_the_original_factory(whole):
    made, _, folder = whole
    small = mipp.load(folder / "checkpoint-6", llama).eval()
    batch = ids(3)
    assert torch.equal(small(**batch).logits, made.model.eval()(**batch).logits)


def test_a_resumed_run_ends_with_the_same_weights(whole):
    made, rounds, folder = whole
    checkpoint = folder / "checkpoint-3"
    dense = size(llama())
    other, again = trainer(folder.parent / "resumed", resume=checkpoint)  # seeds what the data are shuffled by
    assert dense > size(other.model) > size(made.model)  # after one round of two
    other.train(resume_from_checkpoint=str(checkpoint))
    expected = made.model.state_dict()
    for name, tensor in other.model.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert again.plan == rounds.plan


def test_mixed_precision_and_epochs(tmp_path):
    schedule = mipp.Schedule(params=[0.8], every=1, unit="epochs")
    made, rounds = trainer(
        tmp_path, schedule=schedule, bf16=True, max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    made.train()
    assert len(rounds.reports) == 1
    assert size(made.model) <= 0.8 * size(llama())
    assert next(made.model.parameters()).dtype == torch.float32


def test_what_cannot_end_well_is_refused(tmp_path, whole):
    *_, folder = whole
    with pytest.raises(mipp.MippError, match="load_best_model_at_end"):
        trainer(tmp_path, load_best_model_at_end=True, save_strategy="steps", eval_strategy="steps", eval_steps=3)
    with pytest.raises(mipp.PlanMismatchError, match="cannot be read"):
        trainer(tmp_path, resume=tmp_path)
    made, _ = trainer(tmp_path)
    made.add_callback(TrainerPruning(SCHEDULE, [ids(8)], resume=folder / "checkpoint-3"))
    with pytest.raises(mipp.MippError, match="to the constructor"):
        made.train()
