# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Llama 3.2 1B: all parameters.

Hardware: a TPU v5e:2x2 (4 chips).
Plan: 6.84 of 15.75 GiB per chip; a step of 3 x 4 x 2048 tokens takes at least 0.71 s.

Command to run:
python -m launch run NAME --slice=v5e:2x2 --zone=ZONE --hf-token -- \
    --config=configs/models/llama3_2_1b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "meta-llama/Llama-3.2-1B", "llama3.2_1b", "v5e:2x2"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=4)
