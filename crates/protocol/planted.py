#!/usr/bin/env python3
"""Plants each bug of `planted.toml` into a copy of the repository, and asks the simulation for a seed that fails.

Exit status 0 when every bug is found. An argument picks those whose file or name contains it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import tomllib

CRATE = pathlib.Path(__file__).resolve().parent
ROOT = CRATE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "planted"
COPY = TARGET / "tree"
SEEDS = os.environ.get("TIDEGATE_SEEDS", "3000")


def copy():
    """Copies what git tracks, as it is in the working tree. Unchanged files keep their time, so that little is built again."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    for name in tracked:
        there = COPY / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists() or there.read_bytes() != (ROOT / name).read_bytes():
            shutil.copyfile(ROOT / name, there)


def simulate(schedule):
    """Returns what the simulation says of the copy: None if all seeds pass, else the first line that names a failure."""
    command = ["cargo", "test", "-q", "--locked", "-p", "tidegate-protocol", "--test", "simulation", "--", schedule]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET / "build"), TIDEGATE_SEEDS=SEEDS)
    try:
        run = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, timeout=400)
    except subprocess.TimeoutExpired:
        return "the simulation doesn't end"
    said = run.stdout + run.stderr
    if "error: could not compile" in said:
        sys.exit(said)
    if run.returncode == 0:
        return None
    named = re.search(r"TIDEGATE_SEED=\d+: .*|panicked at .*\n.*|no run met .*", said)
    return named.group(0).replace("\n", " ")[:160] if named else said[-300:]


def main():
    bugs = tomllib.loads((CRATE / "planted.toml").read_text())["planted"]
    if len(sys.argv) > 1:
        bugs = [bug for bug in bugs if sys.argv[1] in bug["file"] + bug["name"]]
    copy()
    crate = COPY / CRATE.relative_to(ROOT)
    # Check all bugs before the first build, so that a bug that no longer fits is found at once.
    for bug in bugs:
        count = (crate / bug["file"]).read_text().count(bug["old"])
        if count != 1:
            sys.exit(f"{bug['name']}: `old` occurs {count} times in {bug['file']}")
    unseen = []
    if (failed := simulate("every_record")) is not None:
        sys.exit(f"without any bug the simulation fails: {failed}")
    for bug in bugs:
        planted = crate / bug["file"]
        source = planted.read_text()
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
