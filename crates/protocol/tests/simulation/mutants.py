#!/usr/bin/env python3
"""Changes the pure rooms in every way that cargo-mutants knows, one after the other, and asks their unit tests for one that fails;
what these let pass, the simulation is asked. What none finds is printed: `docs/testing.md` says of each why it may stay.

ROOMS picks rooms by name; RESUME=1 goes on where the last run was ended; TIDEGATE_SEEDS is how many seeds the simulation has.
Exit status 0 when every mutant is found or doesn't build.
"""

import os
import shutil
import subprocess
import sys

import rooms

COPY = rooms.TARGET / "mutants"
FOUND = COPY / "mutants.out"
ROOMS = "session writer partition retry isolate gate position budget commit_time batch"
# These plant bugs of their own, or ask whether a lie is healed: of a mutant they say nothing.
BESIDES = ["planted_bug", "a_wrong_word", "the_same_seed"]


def mutants(tests, optimised):
    command = ["cargo", "mutants", "--in-place", "--iterate", "--no-shuffle", "--baseline", "skip", "--timeout", "30",
               "--build-timeout", "300", "--output", str(COPY), "--colors", "never"]
    for room in os.environ.get("ROOMS", ROOMS).split():
        command += ["--file", f"src/{room}.rs"]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(COPY / "target"), PROPTEST_CASES="64", RUST_BACKTRACE="0",
                       CARGO_PROFILE_DEV_OPT_LEVEL=optimised)
    environment.setdefault("TIDEGATE_SEEDS", "300")
    return subprocess.run(command + sys.argv[1:] + ["--"] + tests, cwd=COPY, env=environment).returncode


def main():
    rooms.copy(COPY)
    if not os.environ.get("RESUME"):
        shutil.rmtree(FOUND, ignore_errors=True)
        shutil.rmtree(COPY / "mutants.out.old", ignore_errors=True)
    # 2: some were not found. 3: some ran into the time limit, which counts as found.
    # Of the unit tests' time the build takes most, so it isn't optimised; the simulation runs long enough to pay for that.
    if mutants(["--lib"], "0") not in (0, 2, 3):
        sys.exit("the mutants could not be tested")
    left = mutants(["--test", "simulation", "--"] + [word for name in BESIDES for word in ["--skip", name]], "1")
    print((FOUND / "missed.txt").read_text(), end="")
    sys.exit(0 if left in (0, 3) else left)


main()
