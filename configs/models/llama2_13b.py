# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Llama 2 13B: all parameters.

Hardware: a TPU v5e:4x8 (32 chips).
Plan: 10.80 of 15.75 GiB per chip; a step of 3 x 32 x 2048 tokens takes at least 4.51 s.

Command to run:
python -m launch run NAME --slice=v5e:4x8 --zone=ZONE --hf-token -- \
    --config=configs/models/llama2_13b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "meta-llama/Llama-2-13b-hf", "llama2_13b", "v5e:4x8"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=32)
