"""The independent units of the data: what a sandwich, a bootstrap and cross-validation take one by one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """The independent units that hold data, numbered from 0.

    A unit of the log-likelihood may be only a part of one (a known label, say), or none at all: a penalty is no data.

    Attributes
    ----------
    of : (units of the log-likelihood,), the independent unit that each belongs to; -1: none
    own : (units of the log-likelihood,), their weights
    """

    of: np.ndarray
    own: np.ndarray

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each independent unit counts; where weights differ within one the largest."""
        result = np.zeros(1 + int(self.of.max(initial=-1)))
        held = self.of >= 0
        np.maximum.at(result, self.of[held], self.own[held])
        return result

    @property
    def rest(self) -> np.ndarray:
        """The weights of what is no data, by unit of the log-likelihood."""
        return np.where(self.of < 0, self.own, 0.0)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Values by unit of the log-likelihood, ``(units, ...)``, added up within the independent units.

        Times ``weights`` they are the weighted sums. Units of weight 0 may be impossible.
        """
        used = (self.of >= 0) & (self.own > 0)
        sums = np.zeros((len(self.weights), *values.shape[1:]))
        column = (-1, *(1,) * (values.ndim - 1))
        np.add.at(sums, self.of[used], self.own[used].reshape(column) * values[used])
        return sums / np.where(self.weights > 0, self.weights, 1.0).reshape(column)

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """Other weights of the independent units as weights of the units of the log-likelihood; the rest stays."""
        share = weights / np.where(self.weights > 0, self.weights, 1.0)
        return self.own * np.where(self.of < 0, 1.0, share[self.of])
