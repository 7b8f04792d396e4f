"""Whatever a public function is given, it takes it or refuses it with a `MippError`, in a message of bounded length."""

import dataclasses
import inspect
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import mipp

pytestmark = pytest.mark.usefixtures("quick")

ODD = {
    "None": None, "True": True, "minus one": -1, "2**63": 2**63, "2**80": 2**80, "thousands of digits": 10**5000,
    "a half": 0.5, "nan": math.nan, "inf": math.inf, "no text": "", "long text": "x" * 300, "bytes": b"x", "list": [],
    "dict": {"a": 1}, "object": object(), "class": object, "number": torch.tensor(1.0), "matrix": torch.ones(2, 2),
    "device": "cuda:99",
}  # fmt: skip
DATA = [torch.randn(16, 4, generator=torch.Generator().manual_seed(0))]
BUDGET = mipp.Budget(nodes=0.5)


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, mipp.prune(model, DATA, BUDGET, progress=False)


class Writer:
    def log(self, numbers, step):
        pass


def calls(model, result):
    """Public functions by name, with arguments that are fine."""
    pruned = {"model": model, "calibration": DATA}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return {
        "prune": (mipp.prune, {**pruned, "budget": BUDGET, "progress": False}),
        "frontier": (mipp.frontier, {**pruned, "budgets": [BUDGET], "method": None}),
        "inspect": (mipp.inspect, {"model": model, "example": DATA[0]}),
        "information": (mipp.information, pruned),
        "select_inputs": (mipp.select_inputs, {**pruned, "num_features": 2}),
        "load": (mipp.load, {"folder": "saved", "model": model}),
        "load_plan": (mipp.load_plan, {}),
        "from_pretrained": (lambda folder: mipp.from_pretrained(folder), {}),
        "apply": (mipp.apply, {"plan": result.plan, "model": model}),
        "mask": (mipp.mask, {"plan": result.plan, "model": model}),
        "from_dict": (mipp.PruningPlan.from_dict, {}),
        "with_kept": (result.plan.with_kept, {}),
        "then": (result.plan.then, {}),
        "report": (mipp.report.Report.from_dict, {}),
        "to_html": (result.report.to_html, {}),
        "save": (result.save, {}),
        "confidence_schedule": (mipp.confidence_schedule, {}),
        "carry_over": (mipp.carry_over, {"optimizer": optimizer, "model": model, "result": result}),
        "carry_over_average": (mipp.carry_over_average, {"averaged": AveragedModel(model), "result": result}),
        "log_report": (lambda report, step=0: mipp.log_report(report, Writer(), step), {"report": result.report}),
        "save_pretrained": (mipp.save_pretrained, {"model": model, "folder": "out"}),
        "export": (mipp.export.export, {"model": model, "example": DATA[0], "path": "out.odd"}),
    }


def refuses_or_takes(function, **arguments):
    message = ""
    try:
        function(**arguments)
    except mipp.MippError as error:
        message = str(error)
    assert len(message) < 1500


@pytest.mark.filterwarnings("ignore")
def test_public_functions_take_or_refuse_odd_arguments(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made[1].save("saved")
    for name, (function, fine) in calls(*made).items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD or parameter.name in ("evaluate", "progress"):
                continue
            for kind, value in ODD.items():
                try:
                    refuses_or_takes(function, **{**fine, parameter.name: value})
                except Exception as error:
                    raise AssertionError(f"{name}({parameter.name}={kind})") from error


SETTINGS = (
    mipp.Budget, mipp.Refit, mipp.Distillation,
    mipp.estimators.Gaussian, mipp.estimators.Surrogate, mipp.estimators.MLP,
    *mipp.methods.all().values(),
)  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_settings_take_or_refuse_odd_values(settings):
    for field in dataclasses.fields(settings) if dataclasses.is_dataclass(settings) else ():
        for kind, value in ODD.items():
            try:
                refuses_or_takes(settings, **{field.name: value})
            except Exception as error:
                raise AssertionError(f"{settings.__name__}({field.name}={kind})") from error


def test_a_number_of_thousands_of_digits_is_refused_in_words():
    with pytest.raises(mipp.MippError, match="a int that cannot be written out"):
        mipp.Budget(macs=10**5000)
