# SPDX-License-Identifier: Apache-2.0
"""Configs of published models, each on a named TPU slice.

A module says in `ARCHITECTURE` which of `jax_surgery/models/published.py` it is of, and in
`SLICE` what it is planned for: python -m jax_surgery.main --config=configs/plan.py:models/NAME
"""
