# SPDX-License-Identifier: Apache-2.0
"""The metrics of TOFU (arXiv 2401.06121): a model's answers, logs of them, and scores."""

from jax_surgery.metrics.tofu.asking import ask
from jax_surgery.metrics.tofu.log import Log, read_log, write_log
from jax_surgery.metrics.tofu.scoring import ModelIsItsOwnReference, scores, summary

__all__ = [
    "Log",
    "ModelIsItsOwnReference",
    "ask",
    "read_log",
    "scores",
    "summary",
    "write_log",
]
