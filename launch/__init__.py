# SPDX-License-Identifier: Apache-2.0
"""Starts a run on Cloud TPU slices, brings it to its end and copies it home.

`python -m launch` from a checkout; see README.md beside this file. It needs Python 3.9 and
gcloud, and nothing installed, so that it works on a laptop. It is no part of the wheel: what
it copies to the workers is the checkout that it stands in.
"""
