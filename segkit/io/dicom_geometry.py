"""From frames to one regular grid, or a refusal that says why there is none.

Slices are sorted by their position along the normal of the image plane. InstanceNumber,
SliceThickness and SpacingBetweenSlices say nothing reliable about where a slice lies.
Tolerances are distances in mm over the whole stack: a cosine of 0.999 is 2.6 degrees.
"""

import numpy as np

from segkit.errors import DataError

# Displacement over the whole stack, in pixels, that counts as rounding of decimal text.
DRIFT_TOLERANCE = 0.25
# Deviation of a slice from its place on the regular grid, in slice steps.
STEP_TOLERANCE = 0.05
SAME_POSITION_MM = 1e-3
# Cosines that differ by more belong to different stacks rather than to a careless one.
_OTHER_ORIENTATION = 1e-2
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def split(frames):
    """Groups frames that could form one stack: same series, size and orientation.

    Args:
        frames: List of `Frame`.

    Returns:
        List of lists, the order of the frames kept, groups ordered by series UID.
    """
    groups = []
    for frame in frames:
        for group in groups:
            if _alike(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return sorted(groups, key=lambda group: group[0].series_uid)


def _alike(a, b):
    if (a.series_uid, a.shape, a.localizer) != (b.series_uid, b.shape, b.localizer):
        return False
    if a.orientation is None or b.orientation is None:
        return a.orientation is b.orientation
    return bool(np.abs(a.orientation - b.orientation).max() <= _OTHER_ORIENTATION)


def levels(frames):
    """Sorts the frames of one group along the normal.

    Args:
        frames: Group from `split`, all with positions.

    Returns:
        List of lists of frames, one list per position, in the direction of the normal.

    Raises:
        DataError: If a frame lacks geometry or disagrees with the first one.
    """
    _check_consistent(frames)
    normal = _axes(frames[0])[2]
    ordered = sorted(frames, key=lambda f: (float(normal @ f.position), f.file.name, f.number))
    found = [[ordered[0]]]
    for frame in ordered[1:]:
        if np.abs(frame.position - found[-1][0].position).max() <= SAME_POSITION_MM:
            found[-1].append(frame)
        else:
            found.append([frame])
    return found


def same_position_reason(found):
    """Says why several different images lie at one position.

    Args:
        found: Result of `levels` where some position holds more than one image.

    Returns:
        Text for an error message.
    """
    crowded = next(level for level in found if len(level) > 1)
    names = list(dict.fromkeys(name for f in crowded for name in f.variants))
    cause = next((n for n in names if len({f.variants.get(n) for f in crowded}) > 1), None)
    cause = f" (they differ in {cause})" if cause else ""
    where = f"such as {crowded[0]} and {crowded[1]}"
    if len(found) == 1:
        return (
            f"not a volume: all {len(crowded)} images lie at the same position{cause}, {where}. "
            "This is a time series of one slice."
        )
    if len({len(level) for level in found}) == 1:
        return (
            f"4-D: every position holds {len(crowded)} different images{cause}, {where}. "
            "Split the series into one folder per volume."
        )
    return (
        f"two different images lie at the same position{cause}: {where}. "
        "Remove the one that does not belong."
    )


def grid(stack):
    """Returns the affine of a sorted stack.

    Args:
        stack: Frames, one per position, sorted by `levels`.

    Returns:
        `(affine, notes)`: float64 `(4, 4)`, voxel index `(k, j, i)` to RAS+ mm.

    Raises:
        DataError: If slices are missing, unevenly spaced, tilted or shifted.
    """
    first = stack[0]
    row, column, normal = _axes(first)
    offsets = np.array([f.position - first.position for f in stack])
    step, notes = (
        _thickness(first) if len(stack) == 1 else _step([str(f) for f in stack], offsets @ normal)
    )
    notes += _check_drift(stack, offsets, normal)
    affine = np.eye(4)
    affine[:3, 0] = normal * step
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = row * first.spacing[1]
    affine[:3, 3] = first.position
    return _LPS_TO_RAS @ affine, notes


def _axes(frame):
    """Unit vectors along a row, down a column and normal to the image, LPS."""
    row, column = frame.orientation
    lengths = np.linalg.norm(frame.orientation, axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(row @ column) > 1e-2:
        raise DataError(
            f"{frame} has an ImageOrientationPatient that is no pair of perpendicular unit "
            "vectors. Export it again."
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _check_consistent(frames):
    first = frames[0]
    for frame in frames:
        for name, value in (
            ("ImagePositionPatient", frame.position),
            ("ImageOrientationPatient", frame.orientation),
            ("PixelSpacing", frame.spacing),
        ):
            if value is None:
                raise DataError(
                    f"not a volume: {frame} has no valid {name}. Only a single 2-D image is "
                    "read without one."
                )
        if min(frame.spacing) <= 0:
            raise DataError(f"{frame} has the PixelSpacing {frame.spacing}; it must be positive.")
        if frame.reference != first.reference:
            raise DataError(
                f"{frame} has another FrameOfReferenceUID than {first}: their positions cannot "
                "be compared."
            )
        extent = max(np.multiply(frame.shape, frame.spacing))
        tolerance = DRIFT_TOLERANCE * min(first.spacing)
        if np.abs(frame.orientation - first.orientation).max() * extent > tolerance:
            raise DataError(f"inconsistent orientation: {frame} is turned against {first}.")
        off = np.abs(np.subtract(frame.spacing, first.spacing)) * frame.shape
        if off.max() > tolerance:
            raise DataError(
                f"inconsistent PixelSpacing: {frame} has {_pair(frame.spacing)} mm, {first} has "
                f"{_pair(first.spacing)} mm."
            )


def _thickness(frame):
    if frame.thickness is None:
        return 1.0, ["A single slice without SliceThickness: a depth of 1 mm was assumed."]
    return frame.thickness, [f"A single slice: its depth is the thickness, {frame.thickness:g} mm."]


def _step(names, places):
    """Returns the slice step, or refuses and names the first gap."""
    steps = np.diff(places)
    smallest, mean = steps.min(), (places[-1] - places[0]) / (len(places) - 1)
    if smallest <= SAME_POSITION_MM:
        at = int(steps.argmin())
        raise DataError(
            f"not a stack: {names[at]} and {names[at + 1]} lie side by side in one plane."
        )
    off = np.abs(places - places[0] - mean * np.arange(len(places))) / mean
    if off.max() <= STEP_TOLERANCE:
        note = f"Slice positions deviate from even steps by {off.max():.1%}."
        return mean, [note] if off.max() > STEP_TOLERANCE / 5 else []
    counts = steps / smallest
    whole = np.abs(counts - np.rint(counts)).max() <= 2 * STEP_TOLERANCE * np.rint(counts.max())
    at = int(np.argmax(steps))
    between = (
        f"between {names[at]} and {names[at + 1]} (at {places[at]:.6g} and {places[at + 1]:.6g} mm "
        "from the first slice)"
    )
    if whole and counts.max() > 1.5:
        missing = int(np.rint(counts - 1).sum())
        raise DataError(
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing, {between}: the step is "
            f"{steps[at]:.4g} mm instead of {smallest:.4g} mm. Export the whole series."
        )
    raise DataError(
        f"slices are unevenly spaced, from {smallest:.4g} to {steps[at]:.4g} mm, the largest step "
        f"{between}. Export the whole series, or resample it to even steps."
    )


def _check_drift(stack, offsets, normal):
    """Refuses stacks whose slices move sideways: gantry tilt, or slices that do not belong."""
    along = offsets @ normal
    sideways = offsets - np.outer(along, normal)
    drift = np.linalg.norm(sideways, axis=1)
    tolerance = DRIFT_TOLERANCE * min(stack[0].spacing)
    if drift.max() <= tolerance:
        note = f"Slices drift sideways by {drift.max():.2g} mm: taken as rounding."
        return [note] if drift.max() > 0.01 else []
    straight = np.outer(along / along[-1], sideways[-1])
    off = np.linalg.norm(sideways - straight, axis=1)
    if off.max() > tolerance:
        raise DataError(
            f"{stack[int(off.argmax())]} is shifted sideways by {off.max():.3g} mm against the "
            "other slices: they do not form one stack."
        )
    angle = np.degrees(np.arctan2(drift[-1], along[-1]))
    raise DataError(
        f"gantry tilt of {angle:.1f} degrees: the stack does not run along the normal of its "
        "slices, so the grid is sheared. Resample it first (dcm2niix writes a *_Tilt file)."
    )


def _pair(values):
    return " x ".join(f"{v:.6g}" for v in values)
