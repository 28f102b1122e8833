# SPDX-License-Identifier: Apache-2.0
"""Unlearn and learn: what both runs share, from the tasks' text to the report."""
