"""Runs a script in a process in which Keras computes with JAX."""

import json
import os
import subprocess
import sys


def errors_under_jax(script, arguments):
    """Returns what a script finds: dict name -> largest difference.

    Args:
        script: Python source; prints as its last line a JSON dict of these, of the `backend` and
            of whether `tensorflow` was imported.
        arguments: Its only argument, as JSON.
    """
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiling is what takes long
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    errors = json.loads(run.stdout.splitlines()[-1])
    assert (errors.pop("backend"), errors.pop("tensorflow")) == ("jax", False)
    return errors
