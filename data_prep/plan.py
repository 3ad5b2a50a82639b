"""The plan: which grid and which intensities the network sees, derived from the fingerprint.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z;
`ExperimentPlanner.determine_fullres_target_spacing`, `determine_transpose` and
`determine_normalization_scheme_and_whether_mask_is_used_for_norm` of nnunetv2 2.8).
"""

from dataclasses import asdict
from dataclasses import dataclass

import numpy as np

from segkit.errors import ConfigError
from segkit.errors import nearest
from segkit.priors import SCHEME
from segkit.priors import count_priors
from segkit.priors import planned_priors
from segkit.volume import CANONICAL
from segkit.volume import axis_moves

ANISOTROPY = 3.0
NORMALIZATIONS = ("zscore",)  # that can be asked for
COLOURS = ("red", "green", "blue", "r", "g", "b", "rgb")


@dataclass(frozen=True)
class Plan:
    """How every case is preprocessed; `as_json` gives the manifest's "preprocess" entry.

    Attributes:
        orientation: Letters of the prepared grid's axes, such as `"SAR"`.
        spacing_mm: Target voxel size per axis of that grid, or `None`: each case keeps its own.
        crop_to_nonzero: Whether empty borders (0 in all channels) are cut off.
        normalization: One dict per channel, as `preprocess.normalise` takes it.
        roi_margin_mm: What is left around the box of the priors, all else being cut off; `None`
            to keep it.
    """

    orientation: str
    spacing_mm: tuple[float, float, float] | None
    crop_to_nonzero: bool
    normalization: tuple[dict, ...]
    roi_margin_mm: float | None = None

    @property
    def num_priors(self):
        """Number of channels, the last ones, that are priors."""
        return planned_priors(self.normalization)

    def as_json(self):
        """Returns the plan as plain dicts and lists; without a region of interest, no key of it."""
        plain = asdict(self)
        if self.roi_margin_mm is None:  # as in data sets prepared before there was one
            del plain["roi_margin_mm"]
        spacing = plain["spacing_mm"]
        plain["spacing_mm"] = None if spacing is None else [float(s) for s in spacing]
        return plain | {"normalization": list(self.normalization)}

    @classmethod
    def from_json(cls, entry):
        """Returns the `Plan` that `as_json` wrote."""
        spacing = entry["spacing_mm"]
        return cls(
            orientation=entry["orientation"],
            spacing_mm=None if spacing is None else tuple(spacing),
            crop_to_nonzero=entry["crop_to_nonzero"],
            normalization=tuple(entry["normalization"]),
            roi_margin_mm=entry.get("roi_margin_mm"),
        )


def make_plan(
    fingerprint,
    channels,
    *,
    spacing_mm=None,
    orientation=None,
    roi_margin_mm=None,
    normalization=None,
):
    """Decides on orientation, target spacing, cropping and normalisation.

    Args:
        fingerprint: `data_prep.fingerprint.Fingerprint`.
        channels: Modality name per channel, such as `("CT",)`; `prior:CLASS` for a prior.
        spacing_mm: Target spacing per axis of the prepared grid; `"keep"` for each case's own;
            `None` to follow the fingerprint.
        orientation: Axis letters; `None` for `"SAR"`, or with the axis of largest spacing first
            where that is over three times the smallest.
        roi_margin_mm: As in `Plan`.
        normalization: Scheme of all channels but priors, one of `NORMALIZATIONS`; `None` to follow
            their names.

    Returns:
        `Plan`. Images of depth 1 without a physical size keep their grid and their borders.

    Raises:
        ConfigError: `spacing_mm` or `roi_margin_mm` is not of its kind, or there are no priors
            for a region of interest.
        ShapeError: `orientation` is none.
    """
    if orientation is None:
        orientation = _orientation(fingerprint.spacings_mm)
    order, _ = axis_moves(CANONICAL, orientation)
    check_spacing(spacing_mm)
    if spacing_mm == "keep" or (spacing_mm is None and fingerprint.flat):
        spacing_mm = None
    elif spacing_mm is None:
        spacing_mm = target_spacing(fingerprint.spacings_mm, fingerprint.shapes)[list(order)]
    check_margin(roi_margin_mm)
    if roi_margin_mm is not None and not count_priors(channels):
        raise ConfigError(
            "a region of interest needs the priors of a first stage. Use tools/cascade.py."
        )
    masked = fingerprint.relative_size < 3 / 4
    return Plan(
        orientation=orientation,
        spacing_mm=None if spacing_mm is None else tuple(round(float(s), 9) for s in spacing_mm),
        crop_to_nonzero=not fingerprint.flat,
        normalization=tuple(
            _normalization(name, facts, masked, normalization)
            for name, facts in zip(channels, fingerprint.intensities, strict=True)
        ),
        roi_margin_mm=roi_margin_mm,
    )


def target_spacing(spacings_mm, shapes):
    """Returns the spacing to resample to, in mm, shape `(3,)`.

    The median per axis; but where one axis is over three times coarser than the others and over
    three times shorter, its 10th percentile, kept coarser than the others.

    Args:
        spacings_mm: One row per case, shape `(cases, 3)`.
        shapes: Voxels per axis after cropping, shape `(cases, 3)`.
    """
    target = np.median(spacings_mm, axis=0)
    lengths = np.median(shapes, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest = max(target[others])
    if target[worst] > ANISOTROPY * finest and lengths[worst] * ANISOTROPY < min(lengths[others]):
        low = np.percentile(np.asarray(spacings_mm)[:, worst], 10)
        target[worst] = low if low >= finest else finest + 1e-5
    return target


def check_spacing(spacing_mm):
    """Raises `ConfigError` unless `spacing_mm` is what `make_plan` takes."""
    if spacing_mm is None or spacing_mm == "keep":
        return
    valid = not isinstance(spacing_mm, str) and len(spacing_mm) == 3
    if not valid or not all(0 < s < np.inf for s in spacing_mm):
        raise ConfigError(
            f"a spacing is three positive lengths in mm or 'keep', got {spacing_mm!r}."
        )


def check_margin(roi_margin_mm):
    """Raises `ConfigError` unless `roi_margin_mm` is what `make_plan` takes."""
    if roi_margin_mm is not None and not 0 <= roi_margin_mm < np.inf:
        raise ConfigError(
            f"the margin of a region of interest is a length in mm from 0, got {roi_margin_mm!r}."
        )


def check_normalization(normalization):
    """Raises `ConfigError` unless `normalization` is what `make_plan` takes."""
    if normalization not in (None, *NORMALIZATIONS):
        raise ConfigError(
            f"unknown normalization {normalization!r}. {nearest(normalization, NORMALIZATIONS)}"
        )


def _orientation(spacings_mm):
    median = np.median(spacings_mm, axis=0)
    if max(median) <= ANISOTROPY * min(median):
        return CANONICAL
    first = CANONICAL[int(np.argmax(median))]
    return first + CANONICAL.replace(first, "")


def _normalization(name, facts, masked, asked):
    if count_priors([name]):
        return {"scheme": SCHEME}
    name = name.lower()
    if asked:
        return {"scheme": asked, "masked": bool(masked)}
    if name == "ct":
        clip = [facts["percentile_00_5"], facts["percentile_99_5"]]
        return {"scheme": "ct", "clip": clip, "mean": facts["mean"], "std": facts["std"]}
    if name in COLOURS and facts["lowest"] >= 0 and facts["highest"] <= 65535:
        return {"scheme": "rescale", "low": 0, "high": 255 if facts["highest"] <= 255 else 65535}
    return {"scheme": "zscore", "masked": bool(masked)}
