# SPDX-License-Identifier: Apache-2.0
"""The report of a run: a table for the console and one self-contained page."""
