# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery of SmolLM2 135M: all parameters.

Hardware: a TPU v5e:1x1 (1 chip).
Plan: 2.51 of 15.75 GiB per chip; a step of 3 x 1 x 2048 tokens takes at least 0.12 s.

Command to run:
python -m launch run NAME --slice=v5e:1x1 --zone=ZONE -- \
    --config=configs/models/smollm2_135m.py --workdir=gs://BUCKET/RUN \
    --config.data.unlearn=gs://BUCKET/forget.jsonl \
    --config.data.update=gs://BUCKET/new.jsonl \
    --config.data.retain=gs://BUCKET/keep.jsonl,general
"""

from ml_collections import ConfigDict

from configs.models import base

MODEL, ARCHITECTURE, SLICE = "HuggingFaceTB/SmolLM2-135M", "smollm2_135m", "v5e:1x1"


def get_config() -> ConfigDict:
    """The config of the surgery."""
    return base.full(MODEL, rows=1)
