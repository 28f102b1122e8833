# SPDX-License-Identifier: Apache-2.0
"""Where other tokens as likely as one stand, by NumPy's own least squares."""

import numpy as np


def level(logp, likelier):
    """(level, deviation of one more token about it) of tokens, nats.

    Args:
      logp: of the others, [..., K].
      likelier: log q of those less log q of the token, [..., K].
    """
    logp, likelier = np.asarray(logp, np.float64), np.asarray(likelier, np.float64)
    if logp.ndim > 1:
        both = [level(*pair) for pair in zip(logp, likelier, strict=True)]
        return tuple(np.array(values) for values in zip(*both, strict=True))
    count = len(logp)
    slope = 0.0
    if np.ptp(likelier):
        slope = np.clip(np.polyfit(likelier, logp, 1)[0], 0.0, 1.0)
    at = logp.mean() - slope * likelier.mean()
    rest = logp - at - slope * likelier
    return at, np.sqrt((rest**2).sum() / (count - 2) * (1 + 1 / count))
