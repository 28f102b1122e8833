# SPDX-License-Identifier: Apache-2.0
"""Adds tasks to a model (LEARN, arXiv 2408.04140): the dual of `runs.unlearn`."""

from typing import Any

from jax_surgery.runs.subspace import story
from jax_surgery.runs.subspace.settings import SubspaceSettings


def run(settings: SubspaceSettings, directory: str) -> dict[str, Any]:
    """Runs the whole story in `directory`; see `story.tell`."""
    return story.tell(settings, directory)
