# SPDX-License-Identifier: Apache-2.0
"""KL minimisation (Maini et al. 2024, TOFU, arXiv 2401.06121).

    mean log p_theta(y_t) over unlearn text  +  KL(p_pre || p_theta) over retained text

The direction of the KL is `objective.kl_direction=reference_to_model`. It is a mean over
the positions of the text; the published codes divide by all places of a padded batch
(`objective.retained_positions=padded`), which weakens the term by the share of padding.
"""

import dataclasses
import types

from jax_surgery.methods.ga import GA


@dataclasses.dataclass(frozen=True)
class KLMin(GA):
    """Ascent, held by the KL to the model before on retained text."""

    retains = "kl"
    published = types.MappingProxyType({"kl_direction": "reference_to_model"})
