# SPDX-License-Identifier: Apache-2.0
"""One file a run: `get_config()` gives its default config, every field with its unit."""
