"""The sources of the methods, read from the docstrings of their modules."""

import inspect
import re
import sys
from dataclasses import dataclass

from mipp.methods import all as all_methods

AUTHORS = r"(?P<authors>[^;&]+? et al\.|[^;&]+ & [^,;]+)"
VENUE = r"(?:, [A-Z][A-Za-z]+ (?P<year>\d{4}))?"
CITATION = re.compile(rf"{AUTHORS}, (?P<title>[^;]+?){VENUE}, arXiv (?P<arxiv>\d{{4}}\.\d{{5}})")


@dataclass(frozen=True)
class Source:
    """A paper that a method comes from.

    Attributes:
        authors: As the docstring names them, such as "Luo, Wu & Lin".
        title: Of the paper.
        year: Of the conference; of the preprint where there was none.
        url: Of the preprint.
    """

    authors: str
    title: str
    year: str
    url: str


def sources_of(make: type) -> tuple[Source, ...]:
    """The papers behind a method: the n-th source of a module belongs to its n-th method.

    A method that is alone in its module has all of its sources; methods that share one source all have it.
    """
    module = sys.modules[make.__module__]
    text = " ".join((inspect.getdoc(module) or "").partition("Source")[2].split()).removeprefix("s").removeprefix(": ")
    found = tuple(_source(match) for match in CITATION.finditer(text))
    peers = [other for other in all_methods().values() if other.__module__ == make.__module__]
    return found if len(found) <= 1 or len(peers) == 1 else (found[peers.index(make)],)


def _source(match: re.Match[str]) -> Source:
    arxiv = match["arxiv"]
    return Source(
        match["authors"].strip(), match["title"], match["year"] or f"20{arxiv[:2]}", f"https://arxiv.org/abs/{arxiv}"
    )
