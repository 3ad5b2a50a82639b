"""Builds Mask R-CNN, with its options checked."""

import keras

from segkit.errors import ConfigError
from segkit.models.checks import check_input
from segkit.models.checks import check_range

ASPECTS = (0.5, 1.0, 2.0)


def mask_rcnn(
    num_classes,
    input_shape,
    *,
    backbone: str = "small",
    filters: int | None = None,
    weights: str | None = None,
    normalization: str = "group",
    levels: list[int] = (2, 4),
    pyramid_filters: int = 64,
    units: int = 256,
    mask_convs: int = 2,
    class_agnostic_masks: bool = False,
    cascade: bool = False,
    anchor_sides: list[float] | None = None,
    anchor_aspects: list[float] | None = None,
    max_objects: int = 100,
    anchor_samples: int = 128,
    region_samples: int = 64,
    positive_share: float = 0.25,
    candidates: int = 512,
    proposals: int = 128,
    proposal_overlap: float = 0.7,
    detections: int = 100,
    score_threshold: float = 0.05,
    detection_overlap: float = 0.5,
):
    """Builds Mask R-CNN on a feature pyramid, 2-D.

    Inputs are images `(B, H, W, channels)` of any size, which give detections; or a dict of
    `image`, `label` (int32 `(B, H, W)`, class indices; the class after the last one is to be
    ignored) and `instance` (int32 `(B, H, W)`, ids of objects in [0, 65535], 0 for none), whose
    sides are multiples of 32. Outputs are a dict; boxes are float32 `(y0, x0, y1, x1)` in pixels,
    half-open:

    - `proposals` `(B, proposals, 4)`: boxes of the first stage, padded with zeros;
    - unless in training: `boxes` `(B, D, 4)`, `scores` `(B, D)`, `classes` int32 `(B, D)` and
      `masks` `(B, D, 28, 28)`, probabilities within the box; best first, padded with zeros;
    - with objects: `object_boxes`, `object_classes`, `object_ids` and `object_crowd`, see
      `objects.Objects`, and what `segkit.losses.mask_rcnn` needs.

    Departures from the papers: group normalization, boxes do not depend on the class, the best
    anchors of all levels compete for proposals, ROIAlign takes one point per cell, mask targets
    are the nearest pixels, and fewer samples, units and convolutions by default. In training no
    detections are computed, which would cost about a third of a step.

    Args:
        num_classes: Number of classes, background included.
        input_shape: `(height, width, channels)`; sides are `None` or multiples of 32.
        backbone: `small` (for CPUs), `resnet18`, `resnet34`, `resnet50` or `resnet101`.
        filters: Of the first stage of the backbone; `None`: 32 of `small`, 64 of the others.
        weights: `imagenet`, or the path of an `.h5` or `.keras` file, of the same network in
            `keras.applications`; only of `resnet50` and `resnet101`, see `pretrained.py`.
        normalization: `group` (8 groups), `instance`, `batch` (over groups of two examples) or
            `none`.
        levels: First and last level of the pyramid, from 2 (stride 4) to 7.
        pyramid_filters: Channels of the pyramid and of the mask head.
        units: Of the two dense layers of the box head.
        mask_convs: Convolutions of the mask head.
        class_agnostic_masks: One mask per region instead of one per class.
        cascade: Three box heads one after the other, trained at overlaps of 0.5, 0.6 and 0.7, whose
            probabilities are averaged. The mask head is trained on the first one's regions.
        anchor_sides: See `anchors.level_sides`; the data set's manifest proposes some.
        anchor_aspects: Heights over widths; `None`: 0.5, 1 and 2.
        max_objects: Objects of an image that are trained on: the largest ones.
        anchor_samples: Anchors of an image that the first stage is trained on.
        region_samples: Regions of an image that the heads are trained on.
        positive_share: Largest share of regions with an object among them.
        candidates: Boxes that non-maximum suppression looks at; up to 512 are the cheapest.
        proposals: Boxes that the first stage hands on.
        proposal_overlap: Intersection over union above which one of two proposals goes.
        detections: Objects to find in an image at most.
        score_threshold: Lowest score of a detection.
        detection_overlap: Like `proposal_overlap`, of detections of one class.

    Returns:
        `segkit.models.mask_rcnn.network.MaskRCNN`, a `keras.Model`.

    Raises:
        ConfigError: Model Garden is not installed, Keras has another backend, or an option is
            unknown or out of range.
        ShapeError: If `input_shape` is not 2-D or a side does not fit; names the size to pad to.
        DataError: If `weights` do not fit or cannot be read.

    Reference:
        He et al., "Mask R-CNN", ICCV 2017, arXiv:1703.06870; the cascade: Cai and Vasconcelos,
        "Cascade R-CNN", CVPR 2018, arXiv:1712.00726, section 4.
    """
    given = {k: v for k, v in locals().items() if k not in ("num_classes", "input_shape")}
    name = "mask_rcnn"
    check_input(name, num_classes, input_shape, rank=2, multiple=32)
    _check_options(name, given)
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"{name} runs on TensorFlow only, and Keras uses {keras.backend.backend()}. Set "
            "KERAS_BACKEND=tensorflow."
        )
    from segkit.models.mask_rcnn import garden
    from segkit.models.mask_rcnn.network import MaskRCNN
    from segkit.models.mask_rcnn.pretrained import load_resnet

    garden.require()
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    options["anchor_aspects"] = anchor_aspects or list(ASPECTS)
    model = MaskRCNN(num_classes, input_shape[-1], {**options, "weights": None}, name=name)
    if weights:
        load_resnet(model.pyramid, backbone, weights, normalization)
    return model


def _check_options(name, options):
    first, last = (*options["levels"], 0, 0)[:2]
    if len(options["levels"]) != 2 or not 2 <= first <= last <= 7 or first > 5:
        raise ConfigError(
            f"{name} needs levels to be the first and the last level of the pyramid, from 2 to 7, "
            f"the first at most 5, got {list(options['levels'])}."
        )
    for key in ("anchor_sides", "anchor_aspects"):
        values = options[key]
        if values is not None and (not values or min(values) <= 0 or max(values) > 1e4):
            raise ConfigError(f"{name} needs {key} to be numbers above 0, got {list(values)}.")
    if options["anchor_sides"] and list(options["anchor_sides"]) != sorted(options["anchor_sides"]):
        raise ConfigError(
            f"{name} needs anchor_sides in rising order, got {options['anchor_sides']}."
        )
    counts = ("pyramid_filters", "units", "mask_convs", "max_objects", "anchor_samples")
    counts += ("region_samples", "candidates", "proposals", "detections")
    for key in counts:
        check_range(name, key, options[key], low=1)
    check_range(name, "positive_share", options["positive_share"], low=0.0, high=1.0)
    check_range(name, "score_threshold", options["score_threshold"], low=0.0, high=1.0)
    for key in ("proposal_overlap", "detection_overlap"):
        # Model Garden's suppression is right from 0.5 on only.
        check_range(name, key, options[key], low=0.5, high=1.0)
    if options["proposals"] > options["candidates"]:
        raise ConfigError(
            f"{name} chooses {options['proposals']} proposals among {options['candidates']} "
            "candidates. Raise candidates, or lower proposals."
        )
    if options["detections"] > options["proposals"]:
        raise ConfigError(
            f"{name} finds {options['detections']} detections in {options['proposals']} proposals. "
            "Raise proposals, or lower detections."
        )
