# SPDX-License-Identifier: Apache-2.0
"""The old name of configs/export.py, which still works.

Command to run:
python -m jax_surgery.main --config=configs/benchmark.py
"""

from configs.export import get_config

__all__ = ["get_config"]
