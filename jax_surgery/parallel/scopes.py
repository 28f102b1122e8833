# SPDX-License-Identifier: Apache-2.0
"""Named scopes that state what a compiled program alone does not show."""

import jax


def at_most(turns: int):
    """A named scope, as a context manager, for a loop that data may end sooner."""
    return jax.named_scope(f"at_most_{turns}")
