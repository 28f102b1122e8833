# SPDX-License-Identifier: Apache-2.0
"""Makes a Llama forget, learn and remember in place, in JAX."""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("jax-surgery")
except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"
