# SPDX-License-Identifier: Apache-2.0
"""The packaged general text: how much there is, and that its parts stay apart."""

import re

from jax_surgery.data import general


def plain(text: str) -> str:
    """A text's words alone, by which two prompts are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def test_there_are_thirty_everyday_prompts_and_none_twice():
    everyday = general.everyday_prompts()
    assert len(everyday) == 30
    assert len({plain(prompt) for prompt in everyday}) == 30
    assert all(prompt == prompt.strip() for prompt in everyday)
