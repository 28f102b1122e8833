# SPDX-License-Identifier: Apache-2.0
"""A run that chooses for itself: it measures the model, writes retained text, sets the
weights of its terms and says when it is done."""
