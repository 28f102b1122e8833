# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of Gemma 2 9B on your own text: all parameters.

Hardware: a TPU v5e:4x8 (32 chips).
Plan: 13.91 of 15.75 GiB per chip; a step of 3 x 32 x 2048 tokens takes at least 2.34 s.

Command to run:
python -m launch run NAME --slice=v5e:4x8 --zone=ZONE --hf-token -- \
    --config=configs/models/gemma2_9b.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "google/gemma-2-9b", "gemma2_9b", "v5e:4x8"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    config = base.full(MODEL, rows=32)
    # With float32 moments it would need 92 % of a chip.
    config.optimizer.moment_dtype = "bfloat16"
    return config
