"""Estimators of the caller's own are called as they say, and give what an estimator gives."""

import pytest
from networks import refusal

import mipp


def test_an_estimator_that_takes_other_arguments_is_refused_before_anything_takes_long():
    with pytest.raises(mipp.MippError, match=r"called as estimator\(samples, generator\), which it does not take"):
        mipp.methods.MIPP(estimator=lambda: None)


@pytest.mark.usefixtures("quick")
def test_an_estimator_that_returns_something_else_is_named():
    method = mipp.methods.MIPP(estimator=lambda samples, generator: samples.x)
    assert "estimator(samples, generator) returned a Tensor; expected an object with num_nodes" in refusal(
        method=method
    )
