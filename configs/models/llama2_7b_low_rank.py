# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Llama 2 7B: low-rank deltas.

Hardware: a TPU v5e:2x2 (4 chips).
Plan: 6.86 of 15.75 GiB per chip; a step of 3 x 4 x 2048 tokens takes at least 2.03 s.

Command to run:
python -m launch run NAME --slice=v5e:2x2 --zone=ZONE --hf-token -- \
    --config=configs/models/llama2_7b_low_rank.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "meta-llama/Llama-2-7b-hf", "llama2_7b", "v5e:2x2"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.low_rank(MODEL, rows=4)
