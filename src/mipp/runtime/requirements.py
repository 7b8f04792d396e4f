"""Packages that only some functions need, imported by these."""

import importlib
from types import ModuleType

from mipp.errors import MissingRequirementError

DEMO, EXPORT = '"torch-mipp[demo]"', '"torch-mipp[export]"'
"""Extras of this package, as `pip install` takes them."""


def require(name: str, purpose: str, install: str = "") -> ModuleType:
    """Imports a package that is no requirement of this one.

    Args:
        name: The module.
        purpose: What needs it, as the beginning of a sentence.
        install: What `pip install` takes; by default the name.

    Raises:
        MissingRequirementError: It is not installed; the message has the line that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        line = f"pip install {install or name}"
        raise MissingRequirementError(f"{purpose} needs {name}, which cannot be imported ({error}): {line}") from error
