"""What benchmarks share: tools and trainings in processes of their own, and scores in pairs.

Every run is a folder. What is finished is not done again, and what was interrupted goes on.
"""

import csv
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from segkit.training.checkpoint import list_checkpoints

ROOT = Path(__file__).resolve().parents[1]
RESAMPLES = 2000


def train(name, run, *arguments):
    """Runs a training to its end, or goes on with it; does nothing when it has ended.

    Args:
        name: Script in `tools`.
        run: Run folder, `pathlib.Path`.
        *arguments: Further ones of the script.

    Returns:
        CPU seconds that this took, those of earlier parts not included.
    """
    if (run / "finished").exists():
        return 0.0
    resume = ["--resume"] if list_checkpoints(run / "checkpoints") else []
    seconds = tool(name, "--run", run, *arguments, *resume)
    epochs = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["train"]["epochs"]
    with open(run / "history.csv", newline="") as file:
        if len(list(csv.DictReader(file))) < epochs:  # asked to stop, and saved
            raise SystemExit(f"{run} was stopped. Repeat the command to go on.")
    (run / "finished").touch()
    return seconds


def write_config(run, config, settings):
    """Writes the config of a run to `configs` beside it; returns its path.

    Args:
        run: Run folder, `pathlib.Path`.
        config: YAML file to begin with.
        settings: Dict `"section.key" -> value` of what differs.
    """
    content = yaml.safe_load(Path(config).read_text())
    for key, value in settings.items():
        section, _, name = key.partition(".")
        content.setdefault(section, {})[name] = value
    path = run.parent / "configs" / f"{run.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def score(folder, fold):
    """Returns the report of tools/evaluate.py on the whole cases of a fold, made if need be."""
    report = folder / "evaluation" / f"fold{fold}" / "results.json"
    if not report.exists():
        tool("evaluate.py", "--run", folder, "--split", f"fold{fold}")
    return json.loads(report.read_text())


def tool(name, *arguments):
    """Runs one of tools/ and returns the CPU seconds that it took."""
    return call(sys.executable, ROOT / "tools" / name, *arguments)


def call(*command):
    """Runs a program and returns the CPU seconds that it took; ends this one if it fails."""
    command = [str(part) for part in command]
    print(f"== {Path(command[1]).name} {' '.join(command[2:8])}", flush=True)
    # The package beside this script, also where another copy is installed.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit(f"{Path(command[1]).name} failed. Repeat the command to go on.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def overrides(*texts):
    """Returns the arguments that set config keys."""
    return [part for text in texts for part in ("--set", text)]


def training_cases(manifest, validation):
    """Returns the names of the cases of all folds but `validation`, such as `"fold0"`."""
    folds = {f"fold{n}" for n in range(manifest["folds"])} - {validation}
    return [case for case, entry in manifest["cases"].items() if entry["split"] in folds]


def leave_out(manifest, validation, count, seed):
    """Returns `data.repeats` that leaves `count` cases of the training folds.

    Which ones depends on the seed, by hash; more cases hold those of fewer.
    """
    cases = training_cases(manifest, validation)
    ranked = sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case}".encode()).digest())
    if count > len(ranked):
        raise SystemExit(f"--labels {count}: the training folds have {len(ranked)} cases.")
    return dict.fromkeys(sorted(ranked[count:]), 0)


def case_scores(report):
    """Mean foreground Dice of each case, in the order of their names; NaN without foreground."""
    dice = [report["per_case"][case]["dice"][1:] for case in sorted(report["per_case"])]
    return np.nanmean(np.array(dice, float), axis=1)


def paired_gain(before, after):
    """Compares two arrays of scores `(seeds, cases)`, paired in both.

    Returns:
        Dict of `gain`, the mean of `after - before`, and `interval`, its 95 % percentile bootstrap
        over seeds and cases.
    """
    gain = after - before
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        seeds = rng.integers(len(gain), size=len(gain))
        cases = rng.integers(gain.shape[1], size=gain.shape[1])
        draws.append(np.nanmean(gain[np.ix_(seeds, cases)]))
    return {"gain": np.nanmean(gain), "interval": np.percentile(draws, (2.5, 97.5)).tolist()}
