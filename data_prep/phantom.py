"""Phantoms: synthetic CT, brain MR and cine MR whose anatomy is known voxel by voxel.

Anatomy is a list of ellipsoids in coordinates relative to the field of view, bent by a smooth
random displacement; position, size and rotation vary with the seed. Images add partial volume,
texture and noise, so that intensity alone does not separate the classes. In the cine series a
single frame does not either. Same seed, shape and spacing: same bytes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from segkit.errors import ConfigError
from segkit.io.dicom import write_series
from segkit.io.nifti import write_nifti
from segkit.volume import Volume

VERSION = 1
CT_CLASSES = ("background", "liver", "spleen", "kidneys", "spine", "lesion")
BRAIN_CLASSES = ("background", "grey_matter", "white_matter", "ventricles", "oedema", "tumour")
CINE_CLASSES = ("background", "beating")
CINE_CHANNELS = ("CINE",)
BRAIN_CHANNELS = ("T1", "T1c", "T2", "FLAIR")
# Rows per tissue: fat/scalp, skull, grey, white, ventricles, oedema, core, rim; see BRAIN_CHANNELS.
_BRAIN_SIGNAL = {
    "scalp": (620, 640, 420, 380),
    "skull": (90, 90, 70, 70),
    "fluid": (180, 180, 780, 150),
    "grey": (420, 440, 480, 470),
    "white": (560, 580, 380, 390),
    "ventricles": (170, 170, 800, 140),
    "oedema": (400, 410, 640, 680),
    "rim": (400, 820, 560, 600),
    "core": (270, 280, 690, 420),
}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic case.

    Attributes:
        image: int16 array `(depth, height, width, channels)`: HU, or arbitrary units for MR.
        label: uint8 array `(depth, height, width)` of class values, on the same grid.
        channels: Name per channel.
        classes: Class name -> value, background first.
        volumes_ml: Class name -> exact volume in ml: voxels of the class times voxel volume.
        ids: Ids of single objects, uint16 array of the label's shape, 0 for none; or `None`.
    """

    image: Volume
    label: Volume
    channels: tuple[str, ...]
    classes: dict[str, int]
    volumes_ml: dict[str, float]
    ids: np.ndarray | None = None


def make_ct(seed, *, shape=(24, 96, 96), spacing_mm=(5.0, 3.0, 3.0)):
    """Makes an abdominal CT: liver with a lesion, spleen, kidneys and spine.

    Stomach with an air bubble, aorta, fat and muscle are background that looks like organs.

    Args:
        seed: Integer >= 0.
        shape: `(depth, height, width)` in voxels; the anatomy fills it.
        spacing_mm: Voxel size per axis, in mm.

    Returns:
        `Phantom` in HU, orientation `"SPL"`: slices upwards, rows to posterior, columns to left.
    """
    scene = _Scene([seed, 1], shape)
    draw = scene.rng.uniform
    hu = np.full(shape, -1000.0, np.float32)
    label = np.zeros(shape, np.uint8)

    body = scene.ellipsoid((0, 0, 0), (4, draw(0.74, 0.84), draw(0.88, 0.95)), wobble=0)
    hu[body < 1.0] = -100
    hu[body < 0.86] = draw(45, 60)
    hu[scene.ellipsoid((0, -0.05, 0), (3, 0.52, 0.68)) < 1] = -90
    hu[scene.ellipsoid((0.35, -0.3, 0.35), (0.55, 0.2, 0.26)) < 1] = draw(5, 40)
    hu[scene.ellipsoid((0.35, -0.42, 0.35), (0.3, 0.08, 0.15)) < 1] = -900
    hu[scene.ellipsoid((0, 0.17, 0.06), (4, 0.07, 0.07), wobble=0.02) < 1] = draw(140, 200)

    tissue = draw(95, 120)
    liver_at = np.array([0.3, -0.1, -0.38])
    liver = scene.ellipsoid(liver_at, (0.62, 0.46, 0.4), angle=20)
    lobe_at = np.add(liver_at, (0.1, -0.18, 0.36))
    left_lobe = scene.ellipsoid(lobe_at, (0.32, 0.2, 0.32), angle=15)
    lesion = scene.ellipsoid(
        liver_at + draw(-0.1, 0.1, 3), np.array([0.36, 0.2, 0.2]) * draw(0.9, 1.15), angle=30
    )
    organs = (
        ("liver", (liver < 1) | (left_lobe < 1), tissue),
        ("spleen", scene.ellipsoid((0.3, 0.2, 0.6), (0.5, 0.32, 0.19), angle=25) < 1, tissue + 15),
        ("kidneys", scene.ellipsoid((-0.4, 0.34, -0.42), (0.48, 0.2, 0.17), angle=20) < 1, 175),
        ("kidneys", scene.ellipsoid((-0.3, 0.34, 0.46), (0.48, 0.2, 0.17), angle=20) < 1, 175),
        ("spine", scene.ellipsoid((0, 0.43, 0), (4, 0.19, 0.18), wobble=0.02) < 1, draw(240, 330)),
        ("lesion", (lesion < 1) & (liver < 0.95), tissue - draw(45, 60)),
    )
    for name, mask, value in organs:
        mask = mask & (body < 0.86)
        label[mask] = CT_CLASSES.index(name)
        hu[mask] = value
    hu = _blur(hu, 0.6) + scene.texture(8) + scene.noise(20)
    image = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)[..., None]
    return _phantom(image, label, ("CT",), CT_CLASSES, spacing_mm)


def make_brain(seed, *, shape=(32, 96, 96), spacing_mm=(5.0, 2.0, 2.0)):
    """Makes a brain MR of four sequences with a tumour: rim, necrotic core, oedema around it.

    Each channel has its own bias field; the noise is Rician.

    Args:
        seed: Integer >= 0.
        shape: `(depth, height, width)` in voxels; the head fills it.
        spacing_mm: Voxel size per axis, in mm.

    Returns:
        `Phantom` with the channels T1, T1c, T2 and FLAIR, orientation `"SPL"`. The class
        `tumour` is rim and core together.
    """
    scene = _Scene([seed, 2], shape)
    draw = scene.rng.uniform
    turn = Rotation.from_euler("zyx", draw(-8, 8, 3), degrees=True)
    centre = draw(-0.04, 0.04, 3)
    radii = np.array([0.88, 0.9, 0.74]) * draw(0.94, 1.03, 3)
    head = scene.ellipsoid(centre, radii, turn=turn, wobble=0)
    folds = head + scene.smooth(7) * 0.02
    side = np.where(draw() < 0.5, -1, 1)
    tumour_at = centre + turn.apply([draw(0, 0.3), draw(-0.35, 0.3), side * draw(0.26, 0.34)])
    size = draw(0.85, 1.15)
    inside = folds < 0.74

    regions = [
        ("scalp", None, head < 1.0),
        ("skull", None, head < 0.93),
        ("fluid", None, head < 0.84),
        ("grey", "grey_matter", inside),
        ("white", "white_matter", head + scene.smooth(9) * 0.04 < 0.53),
    ]
    for sign in (-1, 1):
        at = centre + turn.apply([0.1, draw(-0.08, 0.0), sign * 0.12])
        horn = scene.ellipsoid(at, (0.24, draw(0.26, 0.34), 0.09), angle=12, turn=turn)
        regions.append(("ventricles", "ventricles", (horn < 1) & inside))
    tumour = scene.ellipsoid(tumour_at, np.array([0.26, 0.24, 0.2]) * size, angle=40)
    oedema = scene.ellipsoid(tumour_at, np.array([0.4, 0.4, 0.33]) * size, angle=40)
    regions += [
        ("oedema", "oedema", (oedema < 1) & inside),
        ("rim", "tumour", (tumour < 1) & inside),
        ("core", "tumour", (tumour < 0.65) & inside),
    ]
    label = np.zeros(shape, np.uint8)
    signal = np.zeros((*shape, len(BRAIN_CHANNELS)), np.float32)
    for tissue, name, mask in regions:
        signal[mask] = _BRAIN_SIGNAL[tissue]
        label[mask] = BRAIN_CLASSES.index(name) if name else 0
    image = np.stack([scene.scan_mr(signal[..., c]) for c in range(signal.shape[-1])], axis=-1)
    return _phantom(image, label, BRAIN_CHANNELS, BRAIN_CLASSES, spacing_mm)


def make_cine(seed, *, shape=(12, 64, 64), spacing_mm=(10.0, 2.0, 2.0)):
    """Makes a cine MR of two discs of which one beats; that one is the object.

    The frames lie along the first axis. Both discs swing about a centre of their own,

        position = centre + swing * sin(phase)

    with centre, swing, phase and radius drawn alike. Over the frames the phase of the object runs
    through one to two cycles; that of the other disc stands still. The two discs of a single frame
    are therefore exchangeable: no frame tells which one is the object, and a few frames do. A
    network that sees frames one by one has an expected Dice of at most about 2/3, the score of
    marking both discs; of marking one by guess it is 1/2.

    Args:
        seed: Integer >= 0.
        shape: `(length, height, width)`: frames, and pixels of each.
        spacing_mm: Voxel size per axis, in mm. Along the frames it stands for the time between
            them; more than three times the others, it keeps resampling and augmentation from
            taking time for space.

    Returns:
        `Phantom` with one channel, orientation `"SPL"`.
    """
    scene = _Scene([seed, 3], shape)
    draw = scene.rng.uniform
    time, rows, columns = np.meshgrid(*(_centres(n) for n in shape), indexing="ij", sparse=True)
    signal = np.full(shape, 200, np.float32)
    label = np.zeros(shape, np.uint8)
    towards = draw(0, 2 * np.pi)
    for sign, beats in ((1, True), (-1, False)):
        at = sign * 0.48 * _direction(towards) + draw(-0.05, 0.05, 2)
        swing = draw(0.12, 0.17) * _direction(draw(0, 2 * np.pi))
        phase, cycles = draw(0, 2 * np.pi), draw(1, 2)
        shift = np.sin(phase + beats * np.pi * cycles * time)  # time runs from -1 to 1
        distance = np.hypot(rows - at[0] - swing[0] * shift, columns - at[1] - swing[1] * shift)
        disc = distance < draw(0.15, 0.2)
        signal[disc] = 450
        label[disc] = beats
    image = scene.scan_mr(signal)[..., None]
    return _phantom(image, label, CINE_CHANNELS, CINE_CLASSES, spacing_mm)


MAKERS = {"ct": make_ct, "brain": make_brain, "cine": make_cine}


def write_phantom(phantom, folder, case_id, *, form="nifti"):
    """Adds a phantom to a folder of raw data, as a scanner and an annotator would leave it.

    Args:
        phantom: `Phantom`.
        folder: Dataset folder; made if missing. `dataset.json` is written again each time.
        case_id: Name of the case.
        form: `"nifti"`: nnU-Net raw layout, for `--layout nnunet`. `"dicom"`: one folder per
            study with a DICOM series per channel and `segmentation.nii.gz`, for
            `--layout dicom`.

    Raises:
        ConfigError: Unknown `form`.
    """
    writers = {"nifti": _write_nnunet, "dicom": _write_study}
    if form not in writers:
        raise ConfigError(f"form must be one of {', '.join(writers)}, got {form!r}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writers[form](phantom, folder, case_id)
    description = {
        "channel_names": {str(n): name for n, name in enumerate(phantom.channels)},
        "labels": phantom.classes,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


def _write_nnunet(phantom, folder, case_id):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(exist_ok=True)
    for n, channel in enumerate(_channel_volumes(phantom)):
        write_nifti(folder / "imagesTr" / f"{case_id}_{n:04d}.nii.gz", channel)
    write_nifti(folder / "labelsTr" / f"{case_id}.nii.gz", phantom.label)


def _write_study(phantom, folder, case_id):
    """Numbers the series folders, because folder order is channel order."""
    modality = "CT" if phantom.channels == ("CT",) else "MR"
    for n, channel in enumerate(_channel_volumes(phantom)):
        series = folder / case_id / f"{n}-{phantom.channels[n]}"
        write_series(
            series,
            channel,
            modality=modality,
            patient_id=case_id,
            series_number=n + 1,
            seed=case_id,
        )
    write_nifti(folder / case_id / "segmentation.nii.gz", phantom.label)


def _channel_volumes(phantom):
    image = phantom.image
    return [Volume(image.array[..., n], image.affine) for n in range(image.num_channels)]


class _Scene:
    """Random numbers and coordinates of one phantom; coordinates are in [-1, 1] per axis."""

    def __init__(self, entropy, shape):
        self.rng = np.random.default_rng(entropy)
        self.shape = shape
        self.grid = np.stack(np.meshgrid(*(_centres(n) for n in shape), indexing="ij"))
        self.grid += 0.04 * np.stack([self.smooth(4) for _ in range(3)])

    def ellipsoid(self, centre, radii, *, angle=0.0, turn=None, wobble=0.05):
        """Returns a field that is below 1 inside a randomly moved, scaled, turned ellipsoid."""
        centre = np.asarray(centre) + self.rng.uniform(-wobble, wobble, 3)
        radii = np.asarray(radii) * self.rng.uniform(1 - 2 * wobble, 1 + 2 * wobble, 3)
        own = Rotation.from_euler("zyx", self.rng.uniform(-angle, angle, 3), degrees=True)
        return ellipsoid_field(self.grid, centre, radii, own if turn is None else turn * own)

    def smooth(self, knots):
        """Returns a smooth random field around 0; `knots` per axis set its detail."""
        field = self.rng.standard_normal((knots, knots, knots), dtype=np.float32)
        for n in reversed(self.shape):
            field = np.tensordot(_blend(n, knots), field, axes=(1, 2))
        return field

    def texture(self, size):
        return size * self.smooth(12)

    def noise(self, sigma):
        noise = _blur(self.rng.standard_normal(self.shape, dtype=np.float32), 0.5)
        return noise * (sigma / noise.std())

    def scan_mr(self, signal):
        signal = _blur(signal, 0.6) * np.exp(0.15 * self.smooth(2)) * self.rng.uniform(0.8, 1.25)
        real, imaginary = self.noise(30), self.noise(30)
        return np.rint(np.hypot(signal + real, imaginary)).astype(np.int16)


def ellipsoid_field(grid, centre, radii, rotation):
    """Squared distance from `centre` in units of the semi-axes: below 1 inside.

    Args:
        grid: Coordinates, shape `(3, ...)`.
        centre: Shape `(3,)`, in the units of `grid`.
        radii: Semi-axes, shape `(3,)`, in the units of `grid`.
        rotation: `scipy.spatial.transform.Rotation` of the semi-axes.

    Returns:
        float32 array of shape `grid.shape[1:]`.
    """
    to_unit = (rotation.as_matrix() / np.asarray(radii)).T.astype(np.float32)
    offset = grid - np.asarray(centre, np.float32).reshape(3, *[1] * (grid.ndim - 1))
    return (np.tensordot(to_unit, offset, axes=1) ** 2).sum(axis=0)


def _centres(size):
    """Returns where the voxels of an axis lie, from -1 to 1."""
    return (2 * np.arange(size, dtype=np.float32) + 1) / size - 1


def _direction(angle):
    return np.array([np.sin(angle), np.cos(angle)])


def _blend(size, knots):
    """Returns the weights `(size, knots)` that blend the values at the knots smoothly."""
    at = (np.arange(size) + 0.5) / size * (knots - 1)
    distance = np.clip(np.abs(at[:, None] - np.arange(knots)), 0, 1)
    return (1 - distance**2 * (3 - 2 * distance)).astype(np.float32)


def _blur(array, sigma):
    """Blurs in plane: slices are thicker than pixels are wide."""
    return gaussian_filter(array, (0, sigma, sigma))


def _phantom(image, label, channels, names, spacing_mm):
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = np.multiply(spacing_mm, (1, -1, -1))
    affine[:, 3] = 0, 0, 0, 1
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(label.shape) - 1) / 2)
    classes = {name: value for value, name in enumerate(names)}
    voxels = np.bincount(label.ravel(), minlength=len(names))
    volumes = voxels * (np.prod(spacing_mm) / 1000)
    return Phantom(
        image=Volume(image, affine),
        label=Volume(label, affine),
        channels=channels,
        classes=classes,
        volumes_ml=dict(zip(names, volumes.tolist(), strict=True)),
    )
