#!/usr/bin/env python3
"""Runs the core of the integration tests on other versions of Kafka and PostgreSQL, and writes the table of docs/versions.md.

  tests/matrix.py                                   every pair, and the table
  tests/matrix.py 13.22.0/2.8.2-zookeeper ...       these pairs of PostgreSQL/Kafka, and no table
  tests/matrix.py --table                           the table, from the last runs in target/matrix
"""

import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/versions.md"
NEWEST_POSTGRES, NEWEST_KAFKA = "18.0.0", "4.2.0"
POSTGRES = ["13.22.0", "14.19.0", "15.14.0", "16.10.0", "17.6.0", NEWEST_POSTGRES]
KAFKA = ["2.8.2-zookeeper", "3.3.2", "3.9.1-zookeeper", "3.9.1", "4.0.0", "4.4.0"]
PAIRS = [(postgres, NEWEST_KAFKA) for postgres in POSTGRES]
PAIRS += [(NEWEST_POSTGRES, kafka) for kafka in KAFKA] + [(POSTGRES[0], KAFKA[0]), (POSTGRES[2], "3.9.1")]
# The tests that depend on the servers: all but the page, the services built on views, and what starts servers of its own.
CORE = ["batches::", "claims::", "cli_offsets::", "cli_verify::", "crash::", "dead_letters::", "delivery::", "evolve::",
        "ledger::", "modes::", "offset_truth::", "outage::", "partitions::", "rebalance::", "replay::", "routes::", "types::"]


def major(version):
    return tuple(int(part) for part in version.split("-")[0].split(".")[:2])


def left_out(postgres, kafka):
    """The tests that ask for what the version doesn't have, each with the reason."""
    tests = {}
    if major(kafka) < (4, 0):
        reason = 'no `group_protocol = "consumer"`, which came with Kafka 4.0'
        tests |= dict.fromkeys(["the_consumer_protocol", "under_each_protocol"], reason)
    return tests


def log_of(postgres, kafka):
    return ROOT / "target/matrix" / f"postgres-{postgres}-kafka-{kafka}.log"


def result(postgres, kafka):
    """How many tests passed and failed in the last run of a pair; None where none ran."""
    log = log_of(postgres, kafka)
    text = log.read_text() if log.exists() else ""
    summary = re.search(r"test result: .*? (\d+) passed; (\d+) failed;", text)
    return summary and (int(summary[1]), int(summary[2]))


def run(postgres, kafka):
    skips = [word for name in left_out(postgres, kafka) for word in ("--skip", name)]
    command = ["cargo", "test", "--locked", "--workspace", "--test", "it", "--", *CORE, *skips]
    environment = os.environ | {"TIDEGATE_POSTGRES": postgres, "TIDEGATE_KAFKA": kafka}
    environment.setdefault("RUST_TEST_THREADS", "8")
    log = log_of(postgres, kafka)
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w") as output:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    ended = result(postgres, kafka)
    if not ended:
        sys.exit(f"no test ran; the end of {log}:\n{log.read_text()[-4000:]}")
    passed, failed = ended
    print(f"PostgreSQL {postgres}, Kafka {kafka}: {passed} passed, {failed} failed, {time.monotonic() - started:.0f} s", flush=True)
    for name in re.findall(r"^test (\S+) \.\.\. FAILED$", log.read_text(), re.M)[:10]:
        print(f"  failed: {name}; see {log.relative_to(ROOT)}", flush=True)
    return failed


def table():
    lines = ["| PostgreSQL | Kafka | tests passed | failed | left out |", "|---|---|--:|--:|---|"]
    for postgres, kafka in PAIRS:
        passed, failed = result(postgres, kafka) or ("not run", "")
        reasons = "; ".join(dict.fromkeys(left_out(postgres, kafka).values()))
        lines.append(f"| {postgres} | {named(kafka)} | {passed} | {failed} | {reasons} |")
    before, rest = PAGE.read_text().split("<!-- made by `make matrix` -->\n")
    after = rest.split("<!-- end of the table -->")[1]
    PAGE.write_text(before + "<!-- made by `make matrix` -->\n" + "\n".join(lines) + "\n<!-- end of the table -->" + after)


def named(kafka):
    version, _, zookeeper = kafka.partition("-")
    return f"{version} with ZooKeeper" if zookeeper else f"{version} (KRaft)"


def main(arguments):
    pairs = [tuple(pair.split("/")) for pair in arguments if pair != "--table"]
    failed = [run(*pair) for pair in (pairs if arguments else PAIRS)]
    if not pairs:
        table()
    sys.exit(any(failed))


main(sys.argv[1:])
