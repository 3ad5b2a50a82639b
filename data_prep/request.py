"""What decides on the bytes of a prepared data set, and whether an earlier run was for the same."""

import json
from dataclasses import asdict

from data_prep import covariates
from data_prep.fingerprint import seed_of
from data_prep.manifest import MANIFEST
from data_prep.manifest import SCHEMA
from segkit.errors import DataError

STATE = "conversion.json"
SHARDS = tuple(f"{split}-?????-of-?????.tfrecord" for split in ("fold*", "test", "synthetic"))
# Options that other data sets are silent about: theirs are as before there were these.
SILENT = ("roi_margin_mm", "first_stage", "instances", "normalization")


def make_request(dataset, options, digests):
    """Returns all that decides on the bytes; a conversion goes on only under an equal request.

    Args:
        dataset: `RawDataset`.
        options: `data_prep.convert.Options`.
        digests: Case id -> SHA-256 of its sources.
    """
    request = {
        "schema": SCHEMA,
        "name": dataset.name,
        "channels": list(dataset.channels),
        "classes": [{"name": n, "value": v} for n, v in dataset.classes.items()],
        "options": {k: v for k, v in asdict(options).items() if v is not None or k not in SILENT},
        "cases": {
            case.id: {"patient": seed_of(case.patient), "test": case.held_back}
            | {"source_sha256": digests[case.id], **covariates.stated(case)}
            for case in dataset.cases
        },
    }
    return json.loads(json.dumps(request))


def previous_state(out, request):
    """Returns the state of an earlier run for the same request; `None` if there was none.

    Args:
        out: Folder of the data set.
        request: From `make_request`.

    Raises:
        DataError: `out` holds another data set, or a damaged state.
    """
    if not (out / STATE).is_file():
        strange = [path.name for name in (MANIFEST, *SHARDS) for path in out.glob(name)]
        if strange:
            raise DataError(
                f"{out} holds {strange[0]} but no {STATE}, so it is no conversion to go on with. "
                "Give another --out, or --overwrite to replace the data set."
            )
        return None
    try:
        state = json.loads((out / STATE).read_text(encoding="utf-8"))
        earlier = state["request"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{out / STATE} is damaged ({error}). Give --overwrite to start again."
        ) from error
    if earlier == request:
        return state
    raise DataError(
        f"{out} holds a data set made otherwise ({_difference(earlier, request)}). Give "
        "--overwrite to replace it, or another --out."
    )


def _difference(earlier, request, where=""):
    """Names the first key in which two requests differ."""
    for key in [*request, *earlier]:
        old, new = earlier.get(key), request.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _difference(old, new, f"{where}{key}.")
        return f"{where}{key}: {old!s:.60} before, {new!s:.60} now"
    return "nothing"
