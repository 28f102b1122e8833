# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Gemma 2 9B: all parameters.

Hardware: a TPU v5p:2x2x2 (8 chips).
Plan: 27.93 of 95.73 GiB per chip; a step of 3 x 8 x 2048 tokens takes at least 2.09 s.

Command to run:
python -m launch run NAME --slice=v5p:2x2x2 --zone=ZONE --hf-token -- \
    --config=configs/models/gemma2_9b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "google/gemma-2-9b", "gemma2_9b", "v5p:2x2x2"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=8)
