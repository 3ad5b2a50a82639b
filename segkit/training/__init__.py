"""Training: distribution, the step, the loop, checkpoints, and the run folder."""

OPTIMIZERS = {
    "adam": "segkit.training.optimizers:adam",
    "adamw": "segkit.training.optimizers:adamw",
    "sgd": "segkit.training.optimizers:sgd",
}

SCHEDULES = {
    "constant": "segkit.training.schedules:constant",
    "cosine": "segkit.training.schedules:cosine",
    "poly": "segkit.training.schedules:poly",
}

AVERAGES = {
    "ema": "segkit.training.averaging:ema",
    "swa": "segkit.training.averaging:swa",
}
