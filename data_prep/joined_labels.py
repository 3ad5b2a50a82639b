"""Class and id of object in one integer map, so that no change of geometry can part them.

The functions take NumPy arrays and tensors alike.
"""

IDS = 1 << 16  # ids are uint16


def join(label, ids):
    """Returns `label * 65536 + ids`.

    Args:
        label: int32 class indices below 32768.
        ids: int32 ids of objects below 65536, of that shape.
    """
    return label * IDS + ids


def split(joined):
    """Returns `(label, ids)`, as `join` took them."""
    return joined // IDS, joined % IDS


def label_of(labels):
    """Returns what augmentation takes as the label of a batch.

    Args:
        labels: A tensor, or a dict with `label`; with `instance` too, both come joined.
    """
    if not isinstance(labels, dict):
        return labels
    return join(labels["label"], labels["instance"]) if "instance" in labels else labels["label"]


def with_label(labels, label):
    """Returns the labels of a batch with another label, one of the kind that `label_of` gave."""
    if not isinstance(labels, dict):
        return label
    if "instance" not in labels:
        return {**labels, "label": label}
    label, instance = split(label)
    return {**labels, "label": label, "instance": instance}
