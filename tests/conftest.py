# SPDX-License-Identifier: Apache-2.0
"""Settings of every test: on CPU, offline, and with what they compile kept."""

import os

# Before jax and huggingface_hub are imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
