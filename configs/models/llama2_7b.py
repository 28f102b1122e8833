# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Llama 2 7B: all parameters.

Hardware: a TPU v5e:4x4 (16 chips).
Plan: 9.27 of 15.75 GiB per chip; a step of 3 x 16 x 2048 tokens takes at least 2.34 s.

Command to run:
python -m launch run NAME --slice=v5e:4x4 --zone=ZONE --hf-token -- \
    --config=configs/models/llama2_7b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "meta-llama/Llama-2-7b-hf", "llama2_7b", "v5e:4x4"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=16)
