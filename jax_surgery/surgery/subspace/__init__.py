# SPDX-License-Identifier: Apache-2.0
"""UNLEARN and LEARN (arXiv 2408.04140): a task as a subspace of the weights' changes.

identify      the task matrix T: how the weights would move to learn the task
discriminate  T', what of T the kept tasks do not feel
remove        W' = W - alpha T', at once or in rounds
learn         W' = W + alpha T', its rank kept low on the way

`rounds` has the step that removing and learning share, `angles` how much tasks overlap,
`linalg` the decompositions as the parameters are sharded.
"""
