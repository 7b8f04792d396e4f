"""Every page is in the navigation of the documentation; decisions are listed on a page of their own."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"[\w/.-]+\.md", settings.partition("\nnav:")[2].partition("\nplugins:")[0])
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    decisions = {page for page in pages if re.match(r"decisions/\d", page)}
    assert sorted(named) == sorted(pages - decisions)
    listed = (ROOT / "docs" / "decisions" / "index.md").read_text()
    assert [page for page in sorted(decisions) if Path(page).name not in listed] == []
