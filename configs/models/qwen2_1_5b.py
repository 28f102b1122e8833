# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Qwen2 1.5B: all parameters.

Hardware: a TPU v5e:2x2 (4 chips).
Plan: 7.70 of 15.75 GiB per chip; a step of 3 x 4 x 2048 tokens takes at least 0.79 s.

Command to run:
python -m launch run NAME --slice=v5e:2x2 --zone=ZONE -- \
    --config=configs/models/qwen2_1_5b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "Qwen/Qwen2-1.5B", "qwen2_1.5b", "v5e:2x2"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=4)
