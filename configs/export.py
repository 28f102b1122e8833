# SPDX-License-Identifier: Apache-2.0
"""Writes the embedded benchmark as JSONL and as TFDS files.

The latter are array_record files.

Command to run (a few seconds):
python -m jax_surgery.main --config=configs/export.py --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config of the export, which has no options."""
    config = ConfigDict()
    config.run = "export"
    return config
