"""Classifies cases by their covariates alone: the score that a network with images has to beat."""

import argparse
import sys

import numpy as np

from segkit.covariates import entry_names
from segkit.errors import DataError
from segkit.errors import exit_code
from segkit.errors import writing

EXAMPLES = """examples:
  python tools/classify.py --data data/brain
  python tools/classify.py --data data/brain --out covariates.json

The data set comes from a table with a column of targets, see docs/fusion.md. Each case is
predicted by a logistic model that was fitted on the other folds; cases of the test split by the
one fitted on all folds.
"""


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="prepared data set")
    parser.add_argument("--out", metavar="FILE", help="also write scores and model as JSON")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the tool and returns its exit code, see `segkit.errors.exit_code`."""
    return exit_code(run, parse_args(argv), interrupted="nothing was written.")


def run(args):
    """Fits, scores, prints and writes."""
    from data_prep.manifest import load_manifest
    from data_prep.manifest import write_json

    manifest = load_manifest(args.data)
    report = classify_cases(manifest, known_cases(args.data, manifest))
    print(table(report))
    if args.out:
        with writing(args.out, "Name another --out."):
            write_json(args.out, report)
        print(f"\nScores and model: {args.out}")


def known_cases(folder, manifest):
    """Returns `(vectors, targets, splits)` of the cases whose class is known."""
    from data_prep.covariates import covariate_vectors
    from data_prep.covariates import target_indices

    for key, what in (("covariates", "covariates"), ("targets", "column of targets")):
        if key not in manifest:
            raise DataError(
                f"the data set {folder} has no {what}. Prepare it from a table that has both, see "
                "docs/fusion.md."
            )
    _, vectors = covariate_vectors(manifest)
    _, targets = target_indices(manifest)
    splits = np.array([case["split"] for case in manifest["cases"].values()])
    known = targets >= 0
    return vectors[known], targets[known], splits[known]


def classify_cases(manifest, cases):
    """Returns the report: scores out of fold and on the test split, and the model of all folds."""
    from segkit.inference.covariate_classifier import classify
    from segkit.inference.covariate_classifier import fit_classifier
    from segkit.inference.covariate_classifier import out_of_fold
    from segkit.inference.covariate_classifier import scores

    vectors, targets, splits = cases
    names, held_back = manifest["targets"], splits == "test"
    kept = ~held_back
    folds = len(set(splits[kept]))
    if folds < 2 or len(names) < 2:
        raise DataError(
            f"the data set {manifest['name']} has {folds} fold(s) and the class(es) "
            f"{', '.join(names)} of cases; two of each are needed."
        )
    found = out_of_fold(vectors[kept], targets[kept], splits[kept], len(names))
    shares = np.bincount(targets[kept], minlength=len(names)) / kept.sum()
    constant = np.tile(shares, (len(targets), 1))
    kernel, bias = fit_classifier(vectors[kept], targets[kept], len(names))
    report = {"data": manifest["name"], "targets": names, "scores": {}}
    parts = {"out of fold": (kept, found)}
    if held_back.any():
        parts["test"] = (held_back, classify(vectors[held_back], kernel, bias))
    for split, (chosen, probabilities) in parts.items():
        entry = {"cases": int(chosen.sum()), **scores(probabilities, targets[chosen])}
        constant_scores = scores(constant[chosen], targets[chosen])
        report["scores"][split] = entry | {"without_covariates": constant_scores}
    entries = entry_names(manifest["covariates"])
    report["kernel"] = dict(zip(entries, kernel.tolist(), strict=True))
    return report | {"bias": bias.tolist()}


def table(report):
    """Returns the scores, and what each covariate adds to the logit of each class, as text."""
    lines = [f"{report['data']}: {', '.join(report['targets'])}", ""]
    lines.append(f"{'':28} cases  accuracy  balanced  cross-entropy")
    for split, entry in report["scores"].items():
        for name, row in ((split, entry), ("  without covariates", entry["without_covariates"])):
            lines.append(
                f"{name:28} {entry['cases']:5}  {row['accuracy']:8.3f}  "
                f"{row['balanced_accuracy']:8.3f}  {row['cross_entropy']:13.3f}"
            )
    lines += ["", "added to the logits of the classes, in that order:"]
    width = max(map(len, report["kernel"]))
    for name, row in report["kernel"].items():
        lines.append(f"{name:{width}}  " + "  ".join(f"{value:+.2f}" for value in row))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
