"""Objects found in images as COCO JSON, with masks as run-length encodings."""

import json
import os
from pathlib import Path

from segkit.errors import writing
from segkit.inference.detections import InstanceMap
from segkit.inference.detections import bounds
from segkit.inference.detections import separate
from segkit.metrics.instances.coco import annotation
from segkit.metrics.instances.rle import encode


def write_coco(path, images, class_names):
    """Writes one file of all objects found, as COCO's tools read it; readers gain the scores.

    Each annotation has `segmentation` (compressed encoding of the full-size mask), `bbox`
    `[x, y, width, height]`, `area` in pixels, `category_id`, the class index, and `score`.

    Args:
        path: File to write.
        images: Dict file name -> `Detections` or two-dimensional `InstanceMap`.
        class_names: Names of all classes, background first.

    Raises:
        ConfigError: If pycocotools is not installed.
        DataError: If the file cannot be written.
    """
    entries = []
    for image, found in enumerate(images.values(), start=1):
        entries += coco_annotations(found, image)
    for number, entry in enumerate(entries, start=1):
        entry["id"] = number
        entry["segmentation"]["counts"] = entry["segmentation"]["counts"].decode("ascii")
    content = {
        "images": [_image(n, *pair) for n, pair in enumerate(images.items(), start=1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(class_names) if n],
        "annotations": entries,
    }
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path, "Choose another folder with --output."):
        try:
            partial.write_text(json.dumps(content), encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def coco_annotations(found, image):
    """Returns the objects of an image as `segkit.metrics.instances.coco.annotation` makes them.

    Args:
        found: `Detections` or two-dimensional `InstanceMap`.
        image: Id of the image.
    """
    found = separate(found) if isinstance(found, InstanceMap) else found
    places = bounds(found.boxes, found.shape)
    parts = zip(found.boxes, found.scores, found.classes, found.masks, places, strict=True)
    return [
        annotation(
            image,
            int(kind),
            box,
            rle=encode(mask, place[:2], found.shape),
            area=mask.sum(),
            score=score,
        )
        for box, score, kind, mask, place in parts
    ]


def _image(number, name, found):
    shape = found.labels.shape if isinstance(found, InstanceMap) else found.shape
    height, width = shape
    return {"id": number, "file_name": name, "height": int(height), "width": int(width)}
