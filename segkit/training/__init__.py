"""Training: distribution, the step, the loop, checkpoints, and the run folder."""

OPTIMIZERS = {
    "adagrad": "segkit.training.optimizers:adagrad",
    "adam": "segkit.training.optimizers:adam",
    "adamw": "segkit.training.optimizers:adam",
    "lamb": "segkit.training.optimizers:lamb",
    "rmsprop": "segkit.training.optimizers:rmsprop",
    "sgd": "segkit.training.optimizers:sgd",
}

SCHEDULES = {
    "constant": "segkit.training.schedules:constant",
    "cosine": "segkit.training.schedules:cosine",
    "exponential": "segkit.training.schedules:exponential",
    "plateau": "segkit.training.schedules:plateau",
    "poly": "segkit.training.schedules:poly",
    "step": "segkit.training.schedules:step_decay",
    "triangular": "segkit.training.schedules:triangular",
}

AVERAGES = {
    "ema": "segkit.training.averaging:ema",
    "swa": "segkit.training.averaging:swa",
}

PRETEXTS = {
    "autoencoder": "segkit.training.reconstruction:autoencoder",
    "denoising": "segkit.training.reconstruction:denoising",
    "masked": "segkit.training.reconstruction:masked",
    "jigsaw": "segkit.training.puzzles:jigsaw",
    "rotation": "segkit.training.puzzles:rotation",
}

TASKS = {
    "enhancement": "segkit.training.adversarial.restoration:Enhancement",
    "inpainting": "segkit.training.adversarial.restoration:Inpainting",
    "labels": "segkit.training.adversarial.tasks:Labels",
    "noise": "segkit.training.adversarial.tasks:Noise",
    "style": "segkit.training.adversarial.style:Style",
}
