# SPDX-License-Identifier: Apache-2.0
"""Unlearning inside the model, and not at its output alone.

A loss on what a model says teaches its last layers to hide what the lower ones still
hold. Here the unlearn term is taken also

- of the states inside (`Inside.lens`): after each attention and each MLP that moves, as
  the output head would read them;
- with a part of a layer left out (`silenced`), another one for each row;
- at copies of the model that have relearned some of what it forgot (`relearned`), a
  first-order step of a game against an adversary who trains (Tamirisa et al. 2024, TAR,
  arXiv 2408.00761, take whole gradients of it).

The terms to learn and to retain are those of the model as it is.
"""
