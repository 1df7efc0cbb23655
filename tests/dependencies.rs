//! Checks that the two pure crates stay pure. Their direct dependencies are exactly those that this file lists. None of their
//! dependencies, direct or indirect, is in [`FORBIDDEN`]. Also checks that one Rust version is promised and used.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates that do I/O, read configuration or keep metrics. The list includes `mio`, because tokio's sockets need it.
const FORBIDDEN: &[&str] = &[
    "axum",
    "config",
    "hyper",
    "metrics",
    "metrics-exporter-prometheus",
    "mio",
    "rdkafka",
    "rdkafka-sys",
    "sqlx",
    "sqlx-core",
    "sqlx-postgres",
    "tidegate",
    "toml_edit",
    "tracing-subscriber",
    "ureq",
];

fn tree(package: &str, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none"])
        .args(arguments)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names are UTF-8");
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != package).map(str::to_owned).collect()
}

fn holds(package: &str, direct: &[&str]) {
    let direct: BTreeSet<String> = direct.iter().map(|&name| name.to_owned()).collect();
    let found = tree(package, &["--depth", "1"]);
    let (more, gone): (Vec<_>, Vec<_>) = (found.difference(&direct).collect(), direct.difference(&found).collect());
    assert!(
        found == direct,
        "{package} has other direct dependencies than the list in tests/dependencies.rs: new {more:?}, gone {gone:?}"
    );
    let all = tree(package, &[]);
    let forbidden: Vec<_> = FORBIDDEN.iter().filter(|name| all.contains(**name)).collect();
    assert!(forbidden.is_empty(), "{package} does no I/O, and {forbidden:?} came into its tree");
}

#[test]
fn the_protocol_depends_on_these_crates_and_on_no_client() {
    holds("tidegate-protocol", &["fastrand", "thiserror", "tokio", "tokio-util", "uuid"]);
}

#[test]
fn rows_depend_on_these_crates_and_on_no_client() {
    let direct = [
        "hmac",
        "jiff",
        "memchr",
        "prost-reflect",
        "protox",
        "serde_json",
        "sha2",
        "simdutf8",
        "strsim",
        "tidegate-protocol",
    ];
    holds("tidegate-rows", &direct);
}

fn between(file: &str, before: &str, after: &str) -> String {
    let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{file} has no `{before}`"));
    rest.split(after).next().expect("a split has a first part").to_owned()
}

#[test]
fn one_rust_version_is_promised_and_built() {
    let promised = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!(between("README.md", "This needs Rust ", " or later"), promised);
    let image = between("Dockerfile", "ARG RUST_VERSION=", "\n");
    assert!(image == promised || image.starts_with(&format!("{promised}.")), "the image is built by Rust {image}");
}
