# SPDX-License-Identifier: Apache-2.0
"""Puts finished runs on one page, in a picture and in pairs.

The picture is of what each forgot against what it retained: the better runs are above and
on the right. A table says where their configs differ.

The runs must have been asked the same questions.
Hardware: any; a few seconds.

Command to run (runs/a, runs/b and runs/c are workdirs of finished runs, also on gs://):
python -m jax_surgery.main --config=configs/compare.py \
    --config.workdirs=runs/a,runs/b,runs/c
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config of a comparison."""
    config = ConfigDict()
    config.run = "compare"
    config.workdirs = ""  # of two finished runs or more, comma-separated
    return config
