"""A data set whose label maps are, but for those of some cases, what a network found."""

import shutil
from pathlib import Path

from tqdm import tqdm

from benchmarks.runs import tool


def prepare_guessed(out, manifest, source, run, unlabelled):
    """Prepares a data set like another one, with label maps that a network found.

    Args:
        out: Folder to write, `pathlib.Path`; nothing is done if it is complete. The raw data set
            is written beside it.
        manifest: Manifest of the data set that has all label maps.
        source: Raw data set of layout msd that it was prepared from, `pathlib.Path`.
        run: Run folder of the network.
        unlabelled: Names of the cases whose own label maps are not to be used.

    Returns:
        `out`.
    """
    if not (out / "dataset.json").exists():
        raw = out.with_name(f"{out.name}-raw")
        if not (raw / "dataset.json").exists():
            write_guessed(raw, source, run, set(unlabelled))
        splits = manifest["options"]["splits"]
        tool("prepare_data.py", "--source", raw, "--layout", "msd", "--splits", splits,
             "--out", out)  # fmt: skip
    return out


def write_guessed(raw, source, run, unlabelled):
    """Writes the raw data set to `raw`; its images are links to those of the source.

    Args: as of `prepare_guessed`.
    """
    from data_prep.layouts import scan_source
    from data_prep.preprocess import to_values
    from segkit.inference.predictor import predict_volume
    from segkit.inference.predictor import predictor_of
    from segkit.io.nifti import write_nifti
    from segkit.training.run import load_run
    from segkit.volume import Volume

    shutil.rmtree(raw, ignore_errors=True)
    shutil.copytree(source / "labelsTr", raw / "labelsTr")
    (raw / "imagesTr").symlink_to((source / "imagesTr").absolute())
    dataset, predictor = scan_source("msd", source), predictor_of(load_run(run))
    cases = [case for case in dataset.cases if case.id in unlabelled]
    for case in tqdm(cases, desc="guessed label maps", unit="case", disable=None):
        found = predict_volume(predictor, dataset.read(case)[0])
        values = to_values(found.array, dataset.classes)
        write_nifti(raw / "labelsTr" / Path(case.label).name, Volume(values, found.affine))
    shutil.copy(source / "dataset.json", raw / "dataset.json")  # last: says that all is there
