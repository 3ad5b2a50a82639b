"""Volume: the one place that states axes, orientation and units.

Arrays are `(depth, height, width[, channels])`. `affine` maps the voxel index `(k, j, i)` of
that array to RAS+ millimetres, so `spacing_mm[n]` belongs to `array.shape[n]`. An orientation
is three letters, one per array axis, each the direction in which the index grows: `"SAR"`
means depth to Superior, height to Anterior, width to Right, and is segkit's canonical one.
A 2-D image is a volume of depth 1.
"""

from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

import numpy as np

from segkit.errors import ShapeError

CANONICAL = "SAR"
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map with its place in space.

    Attributes:
        array: Shape `(depth, height, width)` or `(depth, height, width, channels)`.
        affine: float64, shape `(4, 4)`: voxel index `(k, j, i, 1)` to RAS+ mm.
        notes: What the reader found odd and the user should know, one sentence each.
    """

    array: np.ndarray
    affine: np.ndarray = field(default_factory=lambda: np.eye(4)[[2, 1, 0, 3]])
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        affine = np.asarray(self.affine, dtype=np.float64)
        if self.array.ndim not in (3, 4):
            raise ShapeError(
                "a Volume needs an array (depth, height, width[, channels]), got shape "
                f"{self.array.shape}. Add an axis of length 1 for a 2-D image."
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or min(_norms(affine)) < 1e-9:
            raise ShapeError(
                f"a Volume needs a finite, invertible 4x4 affine, got {affine.tolist()}."
            )
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self):
        """Spatial shape `(depth, height, width)`, in voxels."""
        return self.array.shape[:3]

    @property
    def num_channels(self):
        """Number of channels; 1 for an array without a channel axis."""
        return self.array.shape[3] if self.array.ndim == 4 else 1

    @property
    def spacing_mm(self):
        """Voxel size per array axis, in mm: tuple of three floats."""
        return tuple(float(n) for n in _norms(self.affine))

    @property
    def orientation(self):
        """Three letters: the anatomical direction nearest to each array axis."""
        return orientation_of(self.affine)

    def oriented(self, codes):
        """Returns the volume with its axes permuted and flipped to `codes`, without resampling.

        World coordinates do not change: the affine follows the array.

        Args:
            codes: Three letters out of R/L, A/P, S/I, one of each pair, such as `"SAR"`.

        Raises:
            ShapeError: If `codes` is not such a triple.
        """
        order, flips = axis_moves(self.orientation, codes)
        array = np.moveaxis(self.array, order, (0, 1, 2))
        array = array[tuple(slice(None, None, -1 if f else 1) for f in flips)]
        return replace(self, array=array, affine=reoriented_affine(self.affine, self.shape, codes))


def orientation_of(affine):
    """Returns the orientation letters of an affine, one per array axis; each pair is used once."""
    cosines = affine[:3, :3] / _norms(affine)
    free, codes = [0, 1, 2], [""] * 3
    for axis in np.argsort(-np.abs(cosines).max(axis=0), kind="stable"):
        world = max(free, key=lambda w: abs(cosines[w, axis]))
        free.remove(world)
        codes[axis] = ("RAS" if cosines[world, axis] >= 0 else "LPI")[world]
    return "".join(codes)


def axis_moves(source, codes):
    """Returns how to go from one orientation to another.

    Args:
        source: Orientation of the array as it is.
        codes: Orientation wanted.

    Returns:
        `(order, flips)`: array axis `order[n]` of the source becomes axis `n`, reversed where
        `flips[n]` is `True`.

    Raises:
        ShapeError: If `codes` does not name one direction of each of R/L, A/P, S/I.
    """
    if sorted(_WORLD_AXIS.get(c, -1) for c in codes) != [0, 1, 2]:
        raise ShapeError(
            f"an orientation names one of R/L, A/P and S/I each, got {codes!r}. "
            f"The canonical one is {CANONICAL!r}."
        )
    world = [_WORLD_AXIS[c] for c in source]
    order = tuple(world.index(_WORLD_AXIS[c]) for c in codes)
    return order, tuple(source[o] != c for o, c in zip(order, codes, strict=True))


def reoriented_affine(affine, shape, codes):
    """Returns the affine of an array of `shape` after `oriented(codes)`, shape `(4, 4)`."""
    order, flips = axis_moves(orientation_of(affine), codes)
    move = np.zeros((4, 4))
    move[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        move[old, new] = -1.0 if flip else 1.0
        move[old, 3] = shape[old] - 1 if flip else 0.0
    return affine @ move


def same_grid(a, b, tolerance_mm=1e-2):
    """Says whether two volumes have the same shape and place every corner within a tolerance.

    Args:
        a: First volume.
        b: Second volume.
        tolerance_mm: Largest distance allowed between corresponding corner voxels, in mm.
    """
    if a.shape != b.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in a.shape], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.abs((a.affine - b.affine) @ corners).max() <= tolerance_mm)


def _norms(affine):
    return np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0))
