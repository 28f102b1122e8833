# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Mistral 7B v0.3: all parameters.

Hardware: a TPU v5e:4x4 (16 chips).
Plan: 9.96 of 15.75 GiB per chip; a step of 3 x 16 x 2048 tokens takes at least 2.36 s.

Command to run:
python -m launch run NAME --slice=v5e:4x4 --zone=ZONE --hf-token -- \
    --config=configs/models/mistral_7b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "mistralai/Mistral-7B-v0.3", "mistral_7b_v0.3", "v5e:4x4"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=16)
