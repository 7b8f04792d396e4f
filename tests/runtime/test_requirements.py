"""Packages that are no requirement are named with the line that installs them where they are not there."""

import sys

import pytest

from mipp.errors import MissingRequirementError
from mipp.runtime.requirements import require


def test_a_package_that_is_there_is_imported():
    assert require("sys", "The test") is sys


@pytest.mark.parametrize(("install", "line"), [("", "pip install not_there"), ("its-name", "pip install its-name")])
def test_one_that_is_not_there_is_named_with_the_line_that_installs_it(install, line):
    with pytest.raises(MissingRequirementError, match=rf"The test needs not_there, .*: {line}$"):
        require("not_there", "The test", install)
