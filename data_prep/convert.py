"""Raw cases to a folder of TFRecord shards with a manifest, in two passes over the sources.

Pass 1 checks and measures every case (`fingerprint`); the decisions that follow from it go into
`conversion.json` before the first shard is written. Pass 2 writes the shards, each by one worker,
each appearing whole or not at all; so a conversion that was killed goes on where it stopped, and
the bytes do not depend on the number of workers. `dataset.json` is written last.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from functools import partial
from pathlib import Path

import numpy as np

from data_prep import covariates
from data_prep.fingerprint import make_fingerprint
from data_prep.fingerprint import measure_cases
from data_prep.fingerprint import without_cases
from data_prep.instances import MODES
from data_prep.instances import with_components
from data_prep.manifest import MANIFEST
from data_prep.manifest import SCHEMA
from data_prep.manifest import load_manifest
from data_prep.manifest import write_json
from data_prep.manifest import write_sources
from data_prep.object_statistics import count_objects
from data_prep.object_statistics import describe_objects
from data_prep.plan import Plan
from data_prep.plan import check_margin
from data_prep.plan import check_normalization
from data_prep.plan import check_spacing
from data_prep.plan import make_plan
from data_prep.preprocess import geometry
from data_prep.records import encode
from data_prep.records import write_records
from data_prep.request import SHARDS
from data_prep.request import STATE
from data_prep.request import make_request
from data_prep.request import previous_state
from data_prep.shards import ShardSpec
from data_prep.shards import case_chunks
from data_prep.shards import chunk_starts
from data_prep.shards import plan_shards
from data_prep.splits import split_cases
from data_prep.writing import check_space
from data_prep.writing import remove
from data_prep.writing import whole_files
from data_prep.writing import write_missing
from segkit.errors import ConfigError
from segkit.errors import DataError
from segkit.errors import SegkitError
from segkit.errors import nearest
from segkit.volume import CANONICAL
from segkit.volume import axis_moves

SOURCES = "sources.csv"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides on the bytes of a prepared data set, its sources apart.

    Attributes:
        layout: Name of the layout, for the record.
        layout_options: Options given to the layout, for the record.
        splits: Scheme of `splits.assign_folds`: `"kfold"` or `"nnunet"`.
        folds: Number of folds.
        test_share: Share of the patients that are held back as the test split, beyond those that
            the layout holds back.
        seed: Key of the split.
        spacing_mm: Target spacing per prepared axis, `"keep"`, or `None` to derive it.
        orientation: Letters of the prepared axes, or `None` to derive them.
        chunk: Longest side of a stored chunk, in voxels; by default 160, or 2048 for 2-D data.
        chunk_overlap: Overlap of chunks, no smaller than the largest patch to be cropped; by
            default two fifths of `chunk`. Given alone, it makes the chunks large enough.
        skip_bad: Leave out cases that cannot be used, instead of refusing the data set.
        roi_margin_mm: Cut off all that is farther from the priors than this, see `Plan`.
        first_stage: What made the priors, for the record.
        instances: `"components"`: connected voxels of a class are an object; `"slices"`: in each
            slice of the prepared grid, of that or of the objects of the layout.
        normalization: Scheme of all channels, see `plan.make_plan`; `None` to derive it.

    Raises:
        ConfigError: Chunk, overlap, spacing or margin is out of range, or there is no such mode of
            `instances` or normalization.
        ShapeError: `orientation` is none.
    """

    layout: str
    layout_options: dict = field(default_factory=dict)
    splits: str = "kfold"
    folds: int = 5
    test_share: float = 0.0
    seed: int = 0
    spacing_mm: tuple[float, float, float] | str | None = None
    orientation: str | None = None
    chunk: int | None = None
    chunk_overlap: int | None = None
    skip_bad: bool = False
    roi_margin_mm: float | None = None
    first_stage: dict | None = None
    instances: str | None = None
    normalization: str | None = None

    def __post_init__(self):
        if self.instances not in (None, *MODES):
            raise ConfigError(
                f"unknown mode of instances {self.instances!r}. {nearest(self.instances, MODES)}"
            )
        chunk_starts(1, **self.chunking(flat=False))
        check_spacing(self.spacing_mm)
        check_margin(self.roi_margin_mm)
        check_normalization(self.normalization)
        if self.orientation is not None:
            axis_moves(CANONICAL, self.orientation)

    def chunking(self, flat):
        """Returns `{"chunk", "overlap"}` in voxels; `flat` says that all cases are 2-D."""
        chunk, overlap = self.chunk, self.chunk_overlap
        if chunk is None:
            chunk = max(2048 if flat else 160, 5 * (overlap or 0) // 2)
        return {"chunk": chunk, "overlap": 2 * chunk // 5 if overlap is None else overlap}


def convert(dataset, out, *, source, options, workers=1, overwrite=False, progress=None):
    """Writes a prepared data set, or what is missing of it.

    Args:
        dataset: `RawDataset`.
        out: Folder to write; made if needed.
        source: Folder of the raw data: `sources.csv` names files relative to it.
        options: `Options`.
        workers: Number of processes.
        overwrite: Replace another data set that is in `out`.
        progress: Called as `progress(stage, done, total)`, stage `"hash"`, `"check"` or `"write"`.

    Returns:
        `(manifest, written)`: content of `dataset.json`, and how many shards were written: 0 if
        the data set was complete and its sources and options are unchanged.

    Raises:
        DataError: A case cannot be used, `out` holds another data set or cannot be written, or
            some cases have objects and others none.
        ConfigError: An option is not of its kind.
    """
    out = Path(out)
    report = progress or (lambda stage, done, total: None)
    splits = split_cases(dataset, options)
    if options.instances:
        dataset = with_components(dataset)
    with whole_files(out):
        digests = hash_sources(dataset, workers, partial(report, "hash"))
        request = make_request(dataset, options, digests)
        state = None if overwrite else previous_state(out, request)
        if state is None:
            state = {"request": request} | _decide(dataset, options, splits, workers, report)
            voxels = sum(np.prod(e["shape"], dtype=float) for e in state["cases"].values())
            check_space(out, voxels, len(dataset.channels), "a coarser --spacing")
            remove(out, MANIFEST, STATE, SOURCES, *SHARDS)
            write_json(out / STATE, state)
        shards, written = _write_shards(dataset, out, state, workers, partial(report, "write"))
        manifest = _manifest(state, shards)
        complete = not written and (out / MANIFEST).is_file()
        if "objects" in state:
            manifest["instances"] = _instances(out, state, complete, workers)
        if not complete:
            write_sources(out / SOURCES, dataset, source)
            write_json(out / MANIFEST, manifest)
        return manifest, written


def hash_sources(dataset, workers, progress):
    """Returns case id -> SHA-256 of its sources; `None` of a case that cannot be read."""
    digests, digest = {}, partial(_digest_or_none, dataset=dataset)
    with ThreadPoolExecutor(workers) as pool:  # Hashing runs outside Python's lock.
        for case, value in zip(dataset.cases, pool.map(digest, dataset.cases), strict=True):
            digests[case.id] = value
            progress(len(digests), len(dataset.cases))
    return digests


def _digest_or_none(case, dataset):
    try:
        return dataset.digest(case)
    except (SegkitError, OSError):
        return None  # Reading the case will say why.


def _decide(dataset, options, splits, workers, report):
    """Pass 1 and what follows from it: plan, splits, shards."""
    facts, samples, bad = measure_cases(dataset, workers=workers, progress=partial(report, "check"))
    if bad and (not options.skip_bad or not facts):
        shown = "; ".join(f"{case}: {reason}" for case, reason in list(bad.items())[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} of {len(dataset.cases)} cases cannot be used: {shown}{more} "
            "Mend them, or give --skip-bad to leave them out."
        )
    counted = [case for case in facts if splits[case] != "test"] or list(facts)
    fingerprint = make_fingerprint({case: facts[case] for case in counted}, samples)
    plan = make_plan(
        fingerprint,
        dataset.channels,
        spacing_mm=options.spacing_mm,
        orientation=options.orientation,
        roi_margin_mm=options.roi_margin_mm,
        normalization=options.normalization,
    )
    box = "box" if plan.roi_margin_mm is None else "prior_box"
    cases = {
        case: {"split": splits[case]}
        | geometry(f["shape"], f["affine"], f[box], plan)
        | {"class_voxels": f["class_voxels"]}
        for case, f in facts.items()
    }
    chunking = options.chunking(flat=all(entry["shape"][0] == 1 for entry in cases.values()))
    shards = plan_shards(
        {case: splits[case] for case in facts},
        {case: entry["shape"] for case, entry in cases.items()},
        num_channels=len(dataset.channels),
        **chunking,
    )
    stated = {case.id: covariates.stated(case) for case in dataset.cases if case.id in facts}
    return (
        covariates.fit(stated, splits)
        | count_objects(facts)
        | {
            "preprocess": plan.as_json(),
            "chunking": chunking,
            "fingerprint": fingerprint.as_json(),
            "cases": cases,
            "skipped": bad,
            "shards": [asdict(shard) | {"cases": list(shard.cases)} for shard in shards],
        }
    )


def _write_shards(dataset, out, state, workers, progress):
    """Writes the shards that are missing; returns all entries and how many were missing."""
    specs = [ShardSpec(**shard) for shard in state["shards"]]
    raw = {case.id: case for case in dataset.cases}
    known = state["request"]["cases"]

    def job_of(spec):
        return spec.file, [(raw[case], known[case]["source_sha256"]) for case in spec.cases]

    write = partial(
        _write_shard,
        out=out,
        dataset=without_cases(dataset),
        plan=Plan.from_json(state["preprocess"]),
        in_slices=state["request"]["options"].get("instances") == "slices",
        **state["chunking"],
    )
    return write_missing(out, specs, job_of, write, workers=workers, progress=progress)


def _write_shard(job, out, dataset, plan, **cutting):
    file, cases = job

    def records():
        for case, sha256 in cases:
            if dataset.digest(case) != sha256:
                raise DataError(
                    f"{case.first_image} or its label changed during the conversion. Run it again "
                    "with --overwrite."
                )
            yield from map(encode, case_chunks(case, dataset, plan, **cutting))

    return write_records(out / file, records())


def _instances(out, state, complete, workers):
    """The manifest's entry of objects, measured on the shards unless an earlier run did it."""
    if complete and "instances" in (earlier := load_manifest(out)):
        return earlier["instances"]
    return describe_objects(
        out,
        [shard["file"] for shard in state["shards"]],
        {case: entry["split"] for case, entry in state["cases"].items()},
        [entry["name"] for entry in state["request"]["classes"]],
        state["objects"],
        workers=workers,
    )


def _manifest(state, shards):
    request, chunking = state["request"], state["chunking"]
    groups = {}  # patient -> number: an identifier, even hashed, stays out of the manifest
    for case in state["cases"]:
        groups.setdefault(request["cases"][case]["patient"], len(groups))
    resolved = {"chunk": chunking["chunk"], "chunk_overlap": chunking["overlap"]}
    return {
        "schema": SCHEMA,
        "name": request["name"],
        "layout": request["options"]["layout"],
        "channels": request["channels"],
        "classes": request["classes"],
        "preprocess": state["preprocess"],
        "options": request["options"] | resolved,
        "fingerprint": state["fingerprint"],
        "folds": request["options"]["folds"] if request["classes"] else 0,
        "cases": {
            case: entry
            | {"group": groups[request["cases"][case]["patient"]]}
            | {k: v for k, v in request["cases"][case].items() if k not in ("patient", "test")}
            for case, entry in state["cases"].items()
        },
        **{key: state[key] for key in ("covariates", "targets") if key in state},
        "skipped": state["skipped"],
        "shards": shards,
    }
