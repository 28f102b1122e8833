# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Llama 3.1 8B: low-rank deltas.

Hardware: a TPU v5e:2x4 (8 chips).
Plan: 5.78 of 15.75 GiB per chip; a step of 3 x 8 x 2048 tokens takes at least 2.24 s.

Command to run:
python -m launch run NAME --slice=v5e:2x4 --zone=ZONE --hf-token -- \
    --config=configs/models/llama3_1_8b_low_rank.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "meta-llama/Llama-3.1-8B", "llama3.1_8b", "v5e:2x4"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.low_rank(MODEL, rows=8)
