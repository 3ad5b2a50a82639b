"""Fréchet distance between two Gaussians with the moments of real and made features."""

import numpy as np

from segkit.errors import DataError
from segkit.metrics.generation.features import checked


def frechet_distance(real, made):
    """Fréchet distance of features, 0 where mean and covariance agree.

        d = |m_r - m_g|^2 + trace(C_r + C_g - 2 (C_r C_g)^(1/2))

    with the means `m` and the covariances `C`, divided by the number of examples less one. The
    squared distance, as "FID" prints it; on Inception's features it is that number, on others it
    can only be compared among models scored with the same extractor and number of examples. It is
    biased: of fewer examples it is larger. So it needs more examples than there are features.

    Args:
        real: Features of real examples, shape `(examples, features)`.
        made: Features of made examples, `(examples, features)`; the number of examples may differ.

    Returns:
        Float of 0 or more.

    Raises:
        DataError: If there are not more examples than features of each kind, shapes do not fit or
            a value is not finite.

    Reference:
        Dowson and Landau, "The Fréchet distance between multivariate normal distributions",
        Journal of Multivariate Analysis 12, 1982; Heusel et al., "GANs Trained by a Two Time-Scale
        Update Rule", NeurIPS 2017, arXiv:1706.08500, equation 6.
    """
    needed = np.shape(real)[-1] + 1 if np.ndim(real) == 2 else 2
    real, made = checked("the Fréchet distance", needed=needed, real=real, made=made)
    moments = [(array.mean(axis=0), np.cov(array, rowvar=False)) for array in (real, made)]
    return frechet_of_moments(*moments[0], *moments[1])


def frechet_of_moments(first_mean, first_covariance, second_mean, second_covariance):
    """The same of two Gaussians that are given by their moments.

    Args:
        first_mean: Shape `(features,)`.
        first_covariance: Shape `(features, features)`, symmetric and positive semidefinite.
        second_mean: As `first_mean`.
        second_covariance: As `first_covariance`.

    Returns:
        Float of 0 or more.

    Raises:
        DataError: If a covariance has an eigenvalue clearly below 0.
    """
    first, second = (np.atleast_2d(c) for c in (first_covariance, second_covariance))
    values, vectors = np.linalg.eigh(first)
    for lowest, highest in ((v[0], v[-1]) for v in (values, np.linalg.eigvalsh(second))):
        if lowest < -1e-6 * max(highest, 1e-12):
            raise DataError(
                f"a covariance has the eigenvalue {lowest:.3g}; it must have none below 0. Give "
                "moments of one set of features."
            )
    # The root of C_r C_g has the trace of that of C_r^(1/2) C_g C_r^(1/2), which is symmetric.
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second @ root)
    trace = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(inner, 0)).sum()
    offset = np.sum((np.asarray(first_mean, float) - second_mean) ** 2)
    return float(offset + max(trace, 0.0))
