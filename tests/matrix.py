#!/usr/bin/env python3
"""Runs the core of the integration tests on other versions of Kafka and PostgreSQL, and writes the table of docs/versions.md.

  tests/matrix.py                                   every pair, and the table
  tests/matrix.py 13.22.0/2.8.2-zookeeper ...       these pairs of PostgreSQL/Kafka, and no table
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/versions.md"
NEWEST_POSTGRES, NEWEST_KAFKA = "18.0.0", "4.2.0"
POSTGRES = ["13.22.0", "14.19.0", "15.14.0", "16.10.0", "17.6.0", NEWEST_POSTGRES]
KAFKA = ["2.8.2-zookeeper", "3.3.2", "3.9.1-zookeeper", "3.9.1", "4.0.1"]
PAIRS = [(postgres, NEWEST_KAFKA) for postgres in POSTGRES]
PAIRS += [(NEWEST_POSTGRES, kafka) for kafka in KAFKA] + [(POSTGRES[0], KAFKA[0])]
# What depends on the servers: everything but the page, the services built on views, and what starts servers of its own.
CORE = ["batches::", "claims::", "cli_offsets::", "cli_verify::", "crash::", "dead_letters::", "delivery::", "evolve::",
        "ledger::", "modes::", "offset_truth::", "outage::", "partitions::", "rebalance::", "replay::", "routes::", "types::"]


def major(version):
    return tuple(int(part) for part in version.split("-")[0].split(".")[:2])


def left_out(postgres, kafka):
    """The tests that ask for what the version doesn't have, each with the reason."""
    tests = {}
    if major(kafka) < (4, 0):
        tests["the_consumer_protocol"] = 'no `group_protocol = "consumer"`, which came with Kafka 4.0'
    return tests


def run(postgres, kafka):
    skipped = left_out(postgres, kafka)
    skips = [word for name in skipped for word in ("--skip", name)]
    command = ["cargo", "test", "--locked", "-p", "tidegate", "--test", "it", "--", *CORE, *skips]
    environment = os.environ | {"TIDEGATE_POSTGRES": postgres, "TIDEGATE_KAFKA": kafka}
    environment.setdefault("RUST_TEST_THREADS", "8")
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = ROOT / "target/matrix" / f"postgres-{postgres}-kafka-{kafka}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout)
    summary = re.search(r"test result: .*? (\d+) passed; (\d+) failed;.* finished in (\S+)s", done.stdout)
    if not summary:
        sys.exit(f"no test ran; the end of {log}:\n{done.stdout[-4000:]}")
    passed, failed, seconds = int(summary[1]), int(summary[2]), float(summary[3])
    print(f"PostgreSQL {postgres}, Kafka {kafka}: {passed} passed, {failed} failed, {seconds:.0f} s", flush=True)
    for name in re.findall(r"^test (\S+) \.\.\. FAILED$", done.stdout, re.M):
        print(f"  failed: {name}; see {log.relative_to(ROOT)}", flush=True)
    return passed, failed, "; ".join(skipped.values())


def named(kafka):
    version, _, zookeeper = kafka.partition("-")
    return f"{version} with ZooKeeper" if zookeeper else f"{version} (KRaft)"


def main(arguments):
    pairs = [tuple(pair.split("/")) for pair in arguments] or PAIRS
    results = {pair: run(*pair) for pair in pairs}
    if not arguments:
        lines = ["| PostgreSQL | Kafka | tests passed | failed | left out |", "|---|---|--:|--:|---|"]
        lines += [f"| {postgres} | {named(kafka)} | {passed} | {failed} | {reasons} |"
                  for (postgres, kafka), (passed, failed, reasons) in results.items()]
        before, rest = PAGE.read_text().split("<!-- made by `make matrix` -->\n")
        after = rest.split("<!-- end of the table -->")[1]
        table = "\n".join(lines)
        PAGE.write_text(f"{before}<!-- made by `make matrix` -->\n{table}\n<!-- end of the table -->{after}")
    sys.exit(any(failed for _, failed, _ in results.values()))


main(sys.argv[1:])
