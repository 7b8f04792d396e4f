"""A summary holds means over the seeds."""

import pytest

from mipp import grid

pytestmark = pytest.mark.usefixtures("quick")


def test_summaries_are_means_over_the_seeds():
    def row(seed, accuracy):
        return {
            "method": "l1", "budget": {"macs": 0.5}, "seed": seed, "accuracy": {"pruned": accuracy}, "macs": 0.4,
            "params": 0.5, "nodes": 0.6, "collapsed": ["a"] * seed, "seconds": {"selection": 1.0 + seed},
        }  # fmt: skip

    (summary,) = grid.summarise([row(0, 80.0), row(1, 84.0)])
    assert summary.accuracy["pruned"] == pytest.approx((82.0, 8**0.5))
    assert (summary.collapsed, summary.seeds, summary.seconds) == (1, 2, 1.5)
    assert "| l1 | macs=0.5 | 82.00 ± 2.83 | 40.0 % | 50.0 % | 60.0 % | 1 of 2 | 1.50 |" in grid.markdown([summary])
