# SPDX-License-Identifier: Apache-2.0
"""The roles of text, in the order in which a batch holds them, and how they are weighed.

Loads nothing.
"""

from typing import Literal

ROLES = ("unlearn", "update", "retain")
# Of a loss over sequences of tokens: a mean over tokens and then sequences, or over tokens.
Average = Literal["sequences", "tokens"]
