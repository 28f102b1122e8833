# SPDX-License-Identifier: Apache-2.0
"""Reads what a compiler states about a program; no program is run."""
