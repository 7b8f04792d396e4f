"""The options of a run: what they default to, and what of them is recorded."""

import pytest

from mipp.errors import MippError
from mipp.pipeline.options import Options
from mipp.refit.settings import Distillation, Refit


def test_settings_follow_from_the_short_forms():
    assert Options().refit == Refit()
    assert Options(compensate=False).refit is None
    assert Options(compensate=Refit(ridge=0.1)).refit == Refit(ridge=0.1)
    assert Options().distillation is None
    assert Options(recover="distill").distillation == Distillation()


def test_only_what_is_not_at_its_default_is_recorded():
    assert Options().record() == {}
    assert Options(seed=3, exclude="head", progress=False).record() == {"seed": 3, "exclude": ["head"]}


@pytest.mark.parametrize("wrong", [{"seed": 0.5}, {"recover": "retrain"}, {"compensate": "yes"}, {"exclude": [3]}])
def test_an_option_of_another_type_is_refused_by_name(wrong):
    with pytest.raises(MippError, match=next(iter(wrong))):
        Options(**wrong)
