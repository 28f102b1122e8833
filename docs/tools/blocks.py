# SPDX-License-Identifier: Apache-2.0
"""Writes what pages take from the program and from the tables of results/.

    python docs/tools/blocks.py

A page has `<!-- begin: NAME -->` and `<!-- end: NAME -->`; what lies between them is
written here, so that GitHub shows it too. tests/site/test_pages.py fails where it is not
what would be written now. docs/pictures/folders.svg is written as well.
"""

import pathlib
import re
import sys
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

import digests
import picture
import plugin_tables

DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(<!-- begin: (?P<name>[\w-]+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL
)
BLOCKS: dict[str, Callable[[], str]] = {
    "metrics": plugin_tables.metrics,
    "methods": plugin_tables.methods,
    "where": digests.where,
    "real": digests.real,
    "relearning": digests.relearning,
    "gpu": digests.gpu,
}


def written(page: str) -> str:
    """A page with its blocks as they are to be.

    Raises:
      KeyError: a block that is not in `BLOCKS`.
    """

    def block(found: re.Match) -> str:
        return f"{found[1]}\n{BLOCKS[found['name']]()}\n{found[3]}"

    return BLOCK.sub(block, page)


def files() -> dict[pathlib.Path, str]:
    """What is to be written, by file."""
    pages = {path: path.read_text() for path in sorted(DOCS.glob("*.md"))}
    found = {path: written(text) for path, text in pages.items()}
    return found | {DOCS / "pictures" / "folders.svg": picture.folders()}


if __name__ == "__main__":
    for path, text in files().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
