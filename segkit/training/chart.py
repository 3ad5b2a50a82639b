"""The picture of a run: losses, score and learning rate over its epochs; no TensorFlow."""

from matplotlib.figure import Figure


def draw_history(path, rows, metric, label):
    """Draws the history of a run.

    Args:
        path: PNG file to write, whole or not at all.
        rows: Rows of `history.csv`, mappings column -> text; at least one.
        metric: Name of the score in the columns.
        label: Title of its panel.
    """
    panels = (  # title, columns of the history, whether the scale is logarithmic
        ("loss", ("train_loss", "validation_loss"), False),
        (label, (f"train_{metric}", f"validation_{metric}"), False),
        ("learning rate", ("learning_rate",), True),
    )
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    epochs = [int(row["epoch"]) for row in rows]
    for axes, (title, columns, logarithmic) in zip(figure.subplots(1, 3), panels, strict=True):
        for column in filter(rows[-1].__contains__, columns):
            label = column.partition("_")[0] if len(columns) > 1 else None
            values = [float(row[column]) for row in rows]
            axes.plot(epochs, values, marker="." if len(rows) < 30 else None, label=label)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if logarithmic and min(values) > 0:
            axes.set_yscale("log")
        if len(columns) > 1:
            axes.legend()
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=100, format="png")
    temporary.replace(path)
