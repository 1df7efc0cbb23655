//! Every module at the top level of a crate is in the code map of ARCHITECTURE.md, and every entry of the map exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The headings of ARCHITECTURE.md that have a table of modules. Each comes with the folder of its crate.
const CRATES: [(&str, &str); 3] =
    [("### `crates/protocol`", "crates/protocol/src"), ("### `crates/rows`", "crates/rows/src"), ("### `src`", "src")];

fn in_the_map(section: &str) -> BTreeSet<String> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.split('|').nth(1));
    let names = first.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(|name| name.trim_end_matches(['/', '…']).trim_end_matches('/').to_owned()).collect()
}

fn in_the_source(source: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(source).expect("the crate has source").map(|entry| entry.expect("it is readable").path());
    let modules = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let names = modules.map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned());
    names.filter(|name| name != "lib").collect()
}

#[test]
fn every_module_is_in_the_code_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let mut faults = Vec::new();
    for (heading, source) in CRATES {
        let after = page.split_once(heading).unwrap_or_else(|| panic!("no heading {heading:?}")).1;
        let section = after.split("\n### ").next().expect("a split has a first part");
        let (map, modules) = (in_the_map(section), in_the_source(&root.join(source)));
        faults.extend(
            modules.difference(&map).map(|name| format!("{source}/{name}.rs is not in the map under {heading}")),
        );
        let exists = |name: &&String| {
            let path = root.join(source).join(name);
            path.is_dir() || path.with_extension("rs").is_file()
        };
        faults.extend(
            map.iter()
                .filter(|name| !exists(name))
                .map(|name| format!("{heading} names `{name}`, which doesn't exist")),
        );
        assert!(modules.len() > 5, "{source} has modules");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
