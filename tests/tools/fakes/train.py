"""Stands in for tools/train.py: a run folder without a network, or with `model.keras` beside it.

`plan.json` beside it says what the run of a folder name does: `error`: ends with that line and
code 2, before it makes anything; `crash`: ends with a traceback; `stop`: after this epoch waits,
`kill`: ends by this signal, `leave`: ends with code 0, as a training that saved and left. The Dice
of epoch `n` is `dice[n - 1]`, or `n` times the learning rate.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from segkit.config import load_config
from segkit.config import save_config

HERE = Path(__file__).parent


def note(tool, run):
    entry = {
        "tool": tool,
        "run": run.name,
        "argv": sys.argv[1:],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "pid": os.getpid(),
        "began": time.time(),
    }
    with open(HERE / "calls.jsonl", "a") as file:
        file.write(json.dumps(entry) + "\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--config", "--run", "--devices"):
        parser.add_argument(name, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-evaluate", action="store_true", required=True)
    args = parser.parse_args()
    config, run = load_config(args.config, args.set), Path(args.run)
    note("train", run)
    plan = json.loads((HERE / "plan.json").read_text()).get(run.name, {})
    if "error" in plan:
        sys.stderr.write(f"a warning\nerror: {plan['error']}\n")
        return 2
    if "crash" in plan:
        raise ValueError(plan["crash"])
    rows = []
    if args.resume:
        with open(run / "history.csv") as file:
            rows = list(csv.DictReader(file))
    save_config(config, run / "config.yaml")
    shutil.copyfile(Path(config.data.path) / "dataset.json", run / "dataset.json")
    if (HERE / "model.keras").exists():
        shutil.copyfile(HERE / "model.keras", run / "model.keras")
    for epoch in range(len(rows) + 1, config.train.epochs + 1):
        dice = plan["dice"][epoch - 1] if "dice" in plan else epoch * config.train.learning_rate
        rows.append({"epoch": epoch, "validation_dice": dice})
        write(run, rows)
        if epoch == plan.get("stop") and not args.resume:
            time.sleep(60)
        if epoch == plan.get("kill"):
            os.kill(os.getpid(), getattr(signal, plan["signal"]))
        if epoch == plan.get("leave"):
            return 0
    return 0


def write(run, rows):
    temporary = run / "history.tmp"
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["epoch", "validation_dice"])
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(run / "history.csv")
    (run / "checkpoints" / f"step-{len(rows):08d}").mkdir(parents=True)


if __name__ == "__main__":
    sys.exit(main())
