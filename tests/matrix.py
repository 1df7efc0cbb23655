#!/usr/bin/env python3
"""Runs the core of the integration tests on other versions of Kafka and PostgreSQL, and writes the table of docs/versions.md.

  tests/matrix.py                                   every pair, and the table
  tests/matrix.py 13.22.0/2.8.2-zookeeper ...       these pairs of PostgreSQL/Kafka, and no table
  tests/matrix.py --table                           the table, from the last runs in target/matrix
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/versions.md"
NEWEST_POSTGRES, NEWEST_KAFKA = "18.0.0", "4.2.0"
POSTGRES = ["13.22.0", "14.19.0", "15.14.0", "16.10.0", "17.6.0", NEWEST_POSTGRES]
KAFKA = ["2.8.2-zookeeper", "3.3.2", "3.9.1-zookeeper", "3.9.1", "4.0.0", "4.4.0"]
PAIRS = [(postgres, NEWEST_KAFKA) for postgres in POSTGRES]
PAIRS += [(NEWEST_POSTGRES, kafka) for kafka in KAFKA]
# Pairs that are often found together.
PAIRS += [(POSTGRES[0], KAFKA[0]), ("14.19.0", "3.5.2-zookeeper"), ("15.14.0", "3.9.1"), ("16.10.0", "3.9.1")]
# The tests that depend on the servers' versions. Tests of the page, of the fleet example, and tests that start their own servers
# are not in the list.
CORE = ["batches::", "claims::", "cli_offsets::", "cli_verify::", "crash::", "dead_letters::", "delivery::", "evolve::",
        "ledger::", "modes::", "offset_truth::", "outage::", "partitions::", "rebalance::", "replay::", "routes::", "types::"]


def major(version):
    return tuple(int(part) for part in version.split("-")[0].split(".")[:2])


def left_out(postgres, kafka):
    """Returns the tests that need something that the version doesn't have, each with the reason."""
    tests = {}
    if major(kafka) < (4, 0):
        reason = 'no `group_protocol = "consumer"`, which came with Kafka 4.0'
        tests |= dict.fromkeys(["the_consumer_protocol", "under_each_protocol"], reason)
    return tests


def log_of(postgres, kafka):
    return ROOT / "target/matrix" / f"postgres-{postgres}-kafka-{kafka}.log"


def alone_of(postgres, kafka):
    return log_of(postgres, kafka).with_suffix(".alone.log")


def result(postgres, kafka):
    """Returns the result of a pair's last run: how many tests passed, which failed, and which passed when repeated alone."""
    log, alone = log_of(postgres, kafka), alone_of(postgres, kafka)
    text = log.read_text() if log.exists() else ""
    summary = re.search(r"test result: .*? (\d+) passed; (\d+) failed;", text)
    if not summary:
        return None
    # Take the names from the list at the end. The lines of the tests may be mixed with output of the tests themselves.
    failed = re.findall(r"^    (\S+::\S+)$", text.split("\nfailures:\n")[-1], re.M) if int(summary[2]) else []
    again = alone.read_text() if alone.exists() else ""
    recovered = [name for name in failed if f"alone: {name} passed\n" in again]
    return int(summary[1]), [name for name in failed if name not in recovered], recovered


def build():
    """Builds the tests and the daemon, and returns copies of both, so that the sources may change while the pairs run."""
    command = ["cargo", "test", "--locked", "--workspace", "--test", "it", "--no-run", "--message-format", "json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    built = {}
    for message in map(json.loads, output.splitlines()):
        if message.get("executable") and message["target"]["name"] in ("it", "tidegate"):
            built[message["target"]["name"]] = message["executable"]
    folder = ROOT / "target/matrix/bin"
    folder.mkdir(parents=True, exist_ok=True)
    return [shutil.copy2(built[name], folder / name) for name in ("it", "tidegate")]


def run(binaries, postgres, kafka):
    tests, daemon = binaries
    environment = os.environ | {"TIDEGATE_POSTGRES": postgres, "TIDEGATE_KAFKA": kafka, "TIDEGATE_PROGRAM": str(daemon)}
    environment.setdefault("RUST_TEST_THREADS", "8")
    log, alone = log_of(postgres, kafka), alone_of(postgres, kafka)
    log.parent.mkdir(parents=True, exist_ok=True)
    alone.unlink(missing_ok=True)
    started = time.monotonic()
    skips = [word for name in left_out(postgres, kafka) for word in ("--skip", name)]
    with log.open("w") as output:
        run_tests = [tests, *CORE, *skips]
        subprocess.run(run_tests, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if not (ended := result(postgres, kafka)):
        sys.exit(f"no test ran; the end of {log}:\n{log.read_text()[-4000:]}")
    # If many tests run at once on a busy machine, one may exceed a time limit that it keeps when it runs alone.
    with alone.open("w") as output:
        for name in ended[1]:
            test = [tests, "--exact", name]
            code = subprocess.run(test, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
            output.write(f"alone: {name} {'failed' if code else 'passed'}\n")
            output.flush()
    passed, failed, recovered = result(postgres, kafka)
    print(f"PostgreSQL {postgres}, Kafka {kafka}: {passed} passed, {len(recovered)} passed alone, {len(failed)} failed, "
          f"{time.monotonic() - started:.0f} s", flush=True)
    for name in recovered:
        print(f"  passed alone: {name}", flush=True)
    for name in failed:
        print(f"  failed: {name}; see {alone.relative_to(ROOT)}", flush=True)
    return failed


def table():
    lines = ["| PostgreSQL | Kafka | tests passed | passed when repeated alone | failed | left out |", "|---|---|--:|--:|--:|---|"]
    for postgres, kafka in PAIRS:
        ended = result(postgres, kafka)
        passed, failed, recovered = (ended[0], len(ended[1]), len(ended[2])) if ended else ("not run", "", "")
        reasons = "; ".join(dict.fromkeys(left_out(postgres, kafka).values()))
        lines.append(f"| {postgres} | {named(kafka)} | {passed} | {recovered} | {failed} | {reasons} |")
    before, rest = PAGE.read_text().split("<!-- made by `make matrix` -->\n")
    after = rest.split("<!-- end of the table -->")[1]
    PAGE.write_text(before + "<!-- made by `make matrix` -->\n" + "\n".join(lines) + "\n<!-- end of the table -->" + after)


def named(kafka):
    version, _, zookeeper = kafka.partition("-")
    return f"{version} with ZooKeeper" if zookeeper else f"{version} (KRaft)"


def main(arguments):
    pairs = [tuple(pair.split("/")) for pair in arguments if pair != "--table"]
    pairs_to_run = pairs if arguments else PAIRS
    binaries = build() if pairs_to_run else None
    failed = [run(binaries, *pair) for pair in pairs_to_run]
    if not pairs:
        table()
    sys.exit(any(failed))


main(sys.argv[1:])
