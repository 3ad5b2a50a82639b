"""What is shown of made images: tables as text and Markdown, pictures."""

import numpy as np

from segkit.inference.image_grid import save_grid
from segkit.inference.restoration_scores import GIVEN
from segkit.inference.restoration_scores import NETWORK

SHOWN = 8  # rows of a picture
HEADINGS = ("", "Fréchet distance", "kernel distance", "precision", "recall")
DIGITS = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "psnr_inside": 2}
TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "psnr_inside": "PSNR in holes (dB)",
}


def realism_lines(report):
    """Returns the tables of a report of made images, list of lines in Markdown."""
    lines = [
        f"{report['run']}, {report['split']} of {report['data']}: {report['made']} made images, "
        f"{report['held_out']} held-out ones of {report['cases']} cases",
    ]
    for entry in report["realism"]:
        rows = [HEADINGS]
        for kind, name in (("made", "made"), ("training", "real, of training cases")):
            scores = entry[kind]
            spread = scores["kernel_distance_deviation"]
            rows.append(
                (
                    name,
                    _number(scores["frechet_distance"], 4),
                    f"{_number(scores['kernel_distance'], 5)} ± {_number(spread, 5)}",
                    _number(scores["precision"], 3),
                    _number(scores["recall"], 3),
                )
            )
        lines += ["", f"Features: {entry['features']} ({entry['size']}; not FID or KID)", ""]
        lines += [*_markdown(rows), *(["", *entry["notes"]] if entry["notes"] else [])]
    rows = [("features", "distance ratio", "nearer than all held-out", "p", "memorised")]
    rows += [
        (
            found["features"],
            _number(found["ratio"], 3),
            f"{found['nearer_than_all_held_out']} of {report['made']}",
            f"{found['p_value']:.2g}",
            "YES" if found["alarm"] else "no sign",
        )
        for found in memorisation_entries(report)
    ]
    against = f"Memorisation, against {report['all_training']} patches of training cases"
    return [*lines, "", against, "", *_markdown(rows)]


def memorisation_entries(report):
    """Returns the memorisation checks of a report, those on features and on intensities."""
    on_features = [{"features": e["features"], **e["memorisation"]} for e in report["realism"]]
    return [*on_features, report["memorisation_of_intensities"]]


def restoration_lines(report):
    """Returns the tables of a report of restored images, list of lines in Markdown."""
    methods = report["methods"]
    shown = [s for s in TITLES if methods[NETWORK][s] is not None]
    titles = {**TITLES, "ms_ssim": f"MS-SSIM ({report['scales']} scales)"}
    rows = [("", *(f"{titles[s]}, 95 % interval" for s in shown))]
    rows += [
        (name, *(_with_interval(entry, score, DIGITS[score]) for score in shown))
        for name, entry in methods.items()
    ]
    gains = [("network less ...", *(titles[s] for s in shown))]
    gains += [
        (name, *(_with_interval(entry, f"{score}_gain", DIGITS[score]) for score in shown))
        for name, entry in methods.items()
        if name != NETWORK
    ]
    options = [
        f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in entry["options"].items())
        for name, entry in methods.items()
        if entry["options"]
    ]
    return [
        f"{report['run']}, {report['split']} of {report['data']}: {report['examples']} examples of "
        f"{report['cases']} cases{_setting(report['task'])}",
        "",
        *_markdown(rows),
        "",
        *_markdown(gains),
        "",
        "Network less the best of the others: "
        + "; ".join(
            _against_best(report, score) for score in shown if report["best_others"][score]
        ),
        *(["", "Options, by training cases: " + "; ".join(options)] if options else []),
    ]


def write_samples(folder, images, labels, *, upright, title):
    """Draws made images beside real ones and, where there are, the label maps, `samples.png`.

    Args:
        folder: `pathlib.Path` of the evaluation.
        images: Dict of arrays: `made`, `real` and, where images are translated, `given`, else
            `None`.
        labels: int32 `(examples, *sides)`, which made and real images belong to, or `None`.
        upright: As in `save_grid`.
        title: Text above.
    """
    columns = {} if labels is None else {"label": labels[..., None]}
    columns |= {name: array for name, array in images.items() if array is not None}
    columns = {name: array[:SHOWN] for name, array in columns.items()}
    save_grid(folder / "samples.png", columns, title=title, upright=upright, classes=("label",))


def write_nearest(folder, made, training, checks, *, upright):
    """Draws the made images that come nearest to training images, each beside that one.

    Args:
        folder: `pathlib.Path` of the evaluation, which gets a `nearest-NAME.png` for each check.
        made: Made images.
        training: All training images.
        checks: Dict name of the features -> `segkit.metrics.generation.memorisation.Memorisation`.
        upright: As in `save_grid`.
    """
    for name, found in checks.items():
        order = np.argsort(found.relative, kind="stable")[:SHOWN]
        columns = {"made": made[order], "training": training[found.nearest[order]]}
        notes = [f"{found.relative[n]:.2f}" for n in order]
        path = folder / f"nearest-{name}.png"
        save_grid(path, columns, title=f"nearest by {name}", notes=notes, upright=upright)


def write_restored(folder, columns, psnrs, *, upright):
    """Draws the worst, the median and the best example of a network, `restored.png`.

    Args:
        folder: `pathlib.Path` of the evaluation.
        columns: Dict name -> images of all examples, the true ones last.
        psnrs: PSNR of the network for each example.
        upright: As in `save_grid`.
    """
    order = np.argsort(psnrs, kind="stable")
    chosen = [order[0], order[len(order) // 2], order[-1]]
    names = ("worst", "median", "best")
    notes = [f"{name}, {psnrs[n]:.1f} dB" for name, n in zip(names, chosen, strict=True)]
    shown = {name: images[chosen] for name, images in columns.items()}
    save_grid(folder / "restored.png", shown, title="", notes=notes, upright=upright)


def order_of_columns(restored, truth):
    """Returns the columns of `write_restored`: as given, methods, network, truth."""
    inner = [name for name in restored if name not in (GIVEN, NETWORK)]
    columns = {name: restored[name] for name in (GIVEN, *inner, NETWORK)}
    return {**columns, "truth": truth}


def _markdown(rows):
    """Lines of a Markdown table that is aligned as text, too; the first row is the heading."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _with_interval(entry, name, digits):
    low, high = (_number(limit, digits) for limit in entry[f"{name}_interval"])
    return f"{_number(entry[name], digits)} ({low} to {high})"


def _against_best(report, score):
    other = report["best_others"][score]
    gain = _with_interval(report["methods"][other], f"{score}_gain", DIGITS[score])
    return f"{TITLES[score]} {gain}, {other}"


def _setting(task):
    """The options of a task as text: `, gaussian [0.1, 0.1]`."""
    return "".join(f", {key} {value}" for key, value in task.items() if key != "name")


def _number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"
