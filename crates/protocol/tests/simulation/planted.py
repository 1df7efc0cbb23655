#!/usr/bin/env python3
"""Plants each bug of `planted.toml` into a copy of the source, and asks the simulation for a seed that fails.

Exit status 0 when every bug is found. An argument picks those whose name contains it.
"""

import os
import re
import subprocess
import sys
import time
import tomllib

import rooms

COPY = rooms.TARGET / "planted"
SEEDS = os.environ.get("TIDEGATE_SEEDS", "3000")


def simulate(schedule):
    """What the simulation says of the copy: None where all seeds pass, else the first line that names a failure."""
    command = ["cargo", "test", "-q", "--test", "simulation", "--", schedule]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY / "target"), TIDEGATE_SEEDS=SEEDS)
    try:
        run = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        return "the simulation doesn't end"
    said = run.stdout + run.stderr
    if "error: could not compile" in said:
        sys.exit(said)
    if run.returncode == 0:
        return None
    named = re.search(r"TIDEGATE_SEED=\d+: .*|panicked at .*\n.*", said)
    return named.group(0).replace("\n", " ")[:160] if named else said[-300:]


def main():
    bugs = tomllib.loads((rooms.ROOT / "tests/simulation/planted.toml").read_text())["planted"]
    if len(sys.argv) > 1:
        bugs = [bug for bug in bugs if sys.argv[1] in bug["name"]]
    rooms.copy(COPY)
    unseen = []
    if (failed := simulate("every_record")) is not None:
        sys.exit(f"without any bug the simulation fails: {failed}")
    for bug in bugs:
        planted = COPY / bug["file"]
        source = planted.read_text()
        if source.count(bug["old"]) != 1:
            sys.exit(f"{bug['name']}: `old` occurs {source.count(bug['old'])} times in {bug['file']}")
        planted.write_text(source.replace(bug["old"], bug["new"]))
        started = time.monotonic()
        found = simulate(bug.get("schedule", "every_record"))
        planted.write_text(source)
        print(f"{'found ' if found else 'UNSEEN'} {bug['name']} ({time.monotonic() - started:.0f} s)\n       {found}", flush=True)
        if not found:
            unseen.append(bug["name"])
    print(f"{len(bugs) - len(unseen)} of {len(bugs)} found")
    sys.exit(1 if unseen else 0)


main()
