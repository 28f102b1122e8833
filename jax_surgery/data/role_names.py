# SPDX-License-Identifier: Apache-2.0
"""The roles of text, in the order in which a batch holds them. Loads nothing."""

ROLES = ("unlearn", "update", "retain")
