# SPDX-License-Identifier: Apache-2.0
"""Everyday prompts, to see what a chat model says before and after a run.

Origin and licence: every line was written for this project and is under the project's
licence, Apache-2.0. Nothing was copied from other works or data sets.
    everyday.txt   prompts that only measure, one a line
"""

import functools
import pathlib

_FOLDER = pathlib.Path(__file__).parent
COMMENT = "# "


@functools.cache
def _lines(name: str) -> tuple[str, ...]:
    """The lines of a packaged file without comments and blank ones."""
    lines = (_FOLDER / name).read_text(encoding="utf-8").split("\n")
    return tuple(x for x in lines if x.strip() and not x.startswith(COMMENT))


def everyday_prompts() -> list[str]:
    """The fixed prompts that show a chat model's everyday answers before and after.

    They are for measuring only: nothing may train on them or on answers to them. All were
    written for this project (Apache-2.0).
    """
    return list(_lines("everyday.txt"))
