"""FPGM against brute force."""

import numpy as np
from tasks import chain, task

from mipp.methods import (
    FPGM,
)


def test_fpgm_is_the_summed_distance_to_all_filters():
    given = task(chain())
    rows = given.model[0].weight.detach().numpy()
    expected = [np.linalg.norm(rows - row, axis=1).sum() for row in rows]
    np.testing.assert_allclose(FPGM().rank(given)["0"].numpy(), expected)
