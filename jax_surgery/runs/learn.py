# SPDX-License-Identifier: Apache-2.0
"""Adds tasks to a model (LEARN, arXiv 2408.04140): the dual of `runs.unlearn`."""

from typing import Any

from jax_surgery.methods.subspace.settings import SubspaceSettings
from jax_surgery.runs import subspace_story as story


def run(settings: SubspaceSettings, directory: str) -> dict[str, Any]:
    """Runs the whole story in `directory`; see `story.tell`."""
    return story.tell(settings, directory)
