# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Llama 3.1 70B: all parameters.

Hardware: a TPU v5p:4x4x4 (64 chips).
Plan: 39.90 of 95.73 GiB per chip; a step of 3 x 64 x 4096 tokens takes at least 18.38 s.

Command to run:
python -m launch run NAME --slice=v5p:4x4x4 --zone=ZONE --hf-token -- \
    --config=configs/models/llama3_1_70b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "meta-llama/Llama-3.1-70B", "llama3.1_70b", "v5p:4x4x4"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=64, context=4096)
