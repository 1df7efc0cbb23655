"""Copies the rooms that decide, and the simulation over them, into a crate of their own: it builds in seconds, where the whole
daemon takes minutes, so that bugs can be planted by the dozen."""

import os
import pathlib
import re
import shutil

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
ROOMS = ["batch", "budget", "commit_time", "gate", "isolate", "metrics", "partition", "position", "record", "retry", "session", "status", "store",
         "value", "writer"]
MANIFEST = """[package]
name = "tidegate"
version = "0.0.0"
edition = "2024"

[dependencies]
fastrand = "2"
metrics = "0.24"
metrics-exporter-prometheus = { version = "0.18", default-features = false }
thiserror = "2"
tokio = { version = "1", features = ["rt", "macros", "time", "sync", "test-util"] }
tracing = "0.1"
uuid = { version = "1", features = ["v4"] }

[dev-dependencies]
proptest = { version = "1", default-features = false, features = ["std"] }

[profile.dev]
opt-level = 1
debug = false

[workspace]
"""


def copy(to):
    """Makes the crate in the folder `to`; what was built there before stays."""
    for name in ["src", "tests"]:
        shutil.rmtree(to / name, ignore_errors=True)
    (to / "src" / "config").mkdir(parents=True)
    for room in ROOMS:
        shutil.copy2(ROOT / "src" / f"{room}.rs", to / "src")
        if (ROOT / "src" / room).is_dir():
            shutil.copytree(ROOT / "src" / room, to / "src" / room)
    # Of the configuration the rooms know two structs.
    pipeline = (ROOT / "src" / "config" / "pipeline.rs").read_text()
    structs = [re.search(rf"#\[derive[^\n]*\]\npub struct {name} {{.*?\n}}", pipeline, re.S).group(0)
               for name in ["BatchLimits", "DeadLetterBudget"]]
    (to / "src" / "config.rs").write_text("use std::num::NonZeroU32;\nuse std::time::Duration;\n\n" + "\n\n".join(structs) + "\n")
    modules = sorted(ROOMS + ["config"])
    (to / "src" / "lib.rs").write_text("".join(f"pub mod {module};\n" for module in modules))
    (to / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "simulation.rs", to / "tests")
    shutil.copytree(ROOT / "tests" / "simulation", to / "tests" / "simulation")
    (to / "Cargo.toml").write_text(MANIFEST)
    shutil.copy2(ROOT / "Cargo.lock", to)
    return to
