//! Generates `docs/configuration.md`, the reference of every key, or compares the page with what it should be. Keys and types
//! come from the table behind `tidegate config schema`. Texts and defaults come from `config/tidegate.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

/// The pipeline that the reference file defines. The page replaces its name by `NAME`.
const EXAMPLE: &str = "pipelines.ride_history";

const HEAD: &str = "# Configuration reference

This page has every key, in the order and with the texts of the annotated file `config/tidegate.toml`. Every configuration needs
`kafka.bootstrap_servers`, `postgres.url` (or `url_file`), and for each pipeline `topics` (or `topic_pattern`) and `table.name`. In
the names of sections, NAME stands for a pipeline's name.

`tidegate config print --config FILE` shows what files and environment set together. `tidegate config schema` prints a JSON Schema,
with which editors complete and check the file. A key that doesn't exist is refused by name.

<!-- Made by `UPDATE_DOCS=1 cargo test --test config_doc`, from the table of keys behind `tidegate config schema` and from
`config/tidegate.toml`. The same test fails if this page differs from them. -->
";

enum Line<'a> {
    Blank,
    Comment(&'a str),
    Section {
        path: &'a str,
    },
    Key {
        name: &'a str,
        value: &'a str,
        is_on: bool,
    },
    /// Any other line, such as one that continues the value of a key.
    Other,
}

fn line(text: &str) -> Line<'_> {
    let Some(rest) = text.strip_prefix('#') else { return setting(text, true) };
    match rest.strip_prefix(' ') {
        Some(comment) => Line::Comment(comment),
        None if rest.is_empty() => Line::Comment(""),
        None => setting(rest, false),
    }
}

fn setting(text: &str, is_on: bool) -> Line<'_> {
    if text.is_empty() {
        return Line::Blank;
    }
    if let Some(path) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Line::Section { path };
    }
    match text.split_once(" = ") {
        Some((name, value)) => Line::Key { name, value, is_on },
        None => Line::Other,
    }
}

#[derive(Default)]
struct Entry<'a> {
    comment: Vec<&'a str>,
    keys: Vec<(&'a str, &'a str, bool)>,
}

/// A section of the reference file. The path of the first section (the keys of the top level) is empty.
#[derive(Default)]
struct Section<'a> {
    path: String,
    entries: Vec<Entry<'a>>,
}

/// Reads the reference file. A comment directly above the line of a section becomes the first entry of this section.
fn sections(file: &str) -> Vec<Section<'_>> {
    let mut sections = vec![Section::default()];
    let mut entry = Entry::default();
    for text in file.lines() {
        let current = sections.last_mut().expect("there is a first section");
        match line(text) {
            Line::Comment(comment) => {
                if !entry.keys.is_empty() {
                    current.entries.push(std::mem::take(&mut entry));
                }
                entry.comment.push(comment);
            }
            Line::Key { name, value, is_on } => entry.keys.push((name, value, is_on)),
            Line::Blank => current.entries.push(std::mem::take(&mut entry)),
            Line::Section { path } => {
                let above = std::mem::take(&mut entry);
                let (introduction, last) =
                    if above.keys.is_empty() { (above, None) } else { (Entry::default(), Some(above)) };
                current.entries.extend(last);
                sections.push(Section { path: path.replace(EXAMPLE, "pipelines.NAME"), entries: vec![introduction] });
            }
            Line::Other => panic!("{text:?} is neither a comment, a section nor a key with its value in one line"),
        }
    }
    sections.last_mut().expect("there is a first section").entries.push(entry);
    sections
}

fn prose(comment: &[&str], page: &mut String) {
    let mut in_code = false;
    for text in comment {
        let is_code = text.starts_with("  ");
        if is_code != in_code {
            page.push_str(if is_code { "\n```text\n" } else { "```\n\n" });
            in_code = is_code;
        }
        let text = if is_code { text[2..].to_owned() } else { linked(&text.replace('\\', "\\\\")) };
        writeln!(page, "{text}").expect("a string takes it");
    }
    page.push_str(if in_code { "```\n\n" } else { "\n" });
}

fn linked(text: &str) -> String {
    let page = Regex::new(r"docs/([a-z_-]+\.md)").expect("a pattern");
    page.replace_all(text, "[$1]($1)").into_owned()
}

fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

/// Adds the schema of each key, by the key's path. Adds a table itself only if its keys aren't known. In a path, `NAME` stands
/// for a pipeline's name.
fn paths(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(keys) = schema["properties"].as_object() {
        for (name, schema) in keys {
            paths(schema, &below(name), found);
        }
    }
    if schema["additionalProperties"]["properties"].is_object() {
        paths(&schema["additionalProperties"], &below("NAME"), found);
    } else if schema["properties"].is_null() {
        found.insert(path.to_owned(), schema.clone());
    }
}

fn type_of(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or("text or a table")
}

/// Returns a comment line as a list item, for example the line `hash, hash_key_file: …`. Returns `None` if the line doesn't
/// describe keys of a column.
fn item(comment: &str, columns: &[String]) -> Option<String> {
    let (names, text) = comment.split_once(": ")?;
    let (names, condition) = names.split_once(", for ").map_or((names, None), |(names, rest)| (names, Some(rest)));
    let names: Vec<&str> = names.split(", ").collect();
    let are_keys = names.iter().all(|name| columns.iter().any(|column| column == name));
    let condition = condition.map(|condition| format!(", for {condition}")).unwrap_or_default();
    are_keys.then(|| format!("- `{}`{condition}: {text}", names.join("`, `")))
}

/// Writes the section of a table whose keys the user or another program chooses. The comments become text, and the keys an
/// example.
fn free(section: &Section<'_>, columns: &[String], page: &mut String) {
    for entry in section.entries.iter().filter(|entry| !entry.comment.is_empty() || !entry.keys.is_empty()) {
        let items: Vec<String> =
            entry.comment.iter().map(|line| item(line, columns).unwrap_or_else(|| (*line).to_owned())).collect();
        prose(&items.iter().map(String::as_str).collect::<Vec<_>>(), page);
        if entry.keys.is_empty() {
            continue;
        }
        page.push_str("\n```toml\n");
        for (name, value, _) in &entry.keys {
            writeln!(page, "{name} = {value}").expect("a string takes it");
        }
        page.push_str("```\n\n");
    }
}

/// Writes a section of known keys. A comment on keys gets a heading that names these keys. Other comments become text.
fn known(section: &Section<'_>, types: &BTreeMap<String, Value>, faults: &mut Vec<String>, page: &mut String) {
    let last = section.path.rsplit('.').next().filter(|last| *last != "NAME").unwrap_or_default();
    let shown = |name: &str| if last.is_empty() { format!("`{name}`") } else { format!("`{last}.{name}`") };
    for entry in &section.entries {
        if entry.keys.is_empty() {
            // The empty line ends the list of keys above. Otherwise the text would belong to its last item.
            page.push('\n');
            prose(&entry.comment, page);
            continue;
        }
        let names: Vec<String> = entry.keys.iter().map(|(name, ..)| shown(name)).collect();
        writeln!(page, "\n### {}\n", names.join(", ")).expect("a string takes it");
        prose(&entry.comment, page);
        let is_required = entry.comment.first().is_some_and(|text| text.starts_with("Required"));
        let says_default = entry.comment.iter().any(|text| text.contains("Default: ") || text.contains("default is"));
        for (name, value, is_on) in &entry.keys {
            let path = if section.path.is_empty() { (*name).to_owned() } else { format!("{}.{name}", section.path) };
            let Some(schema) = types.get(&path) else {
                faults.push(format!("config/tidegate.toml has {path}, and `tidegate config schema` doesn't"));
                continue;
            };
            let meaning = if *is_on && !is_required && !says_default { "default" } else { "for example" };
            writeln!(page, "- {}: {}; {meaning} {}", shown(name), type_of(schema), code(value))
                .expect("a string takes it");
        }
    }
}

/// Returns the page, and a list of the keys on which the two sources disagree.
fn page(file: &str, schema: &Value) -> (String, Vec<String>) {
    let mut types = BTreeMap::new();
    paths(schema, "", &mut types);
    let sections = sections(file);
    let (mut page, mut faults) = (HEAD.to_owned(), Vec::new());
    for section in &sections {
        page.push_str("\n## ");
        page.push_str(&if section.path.is_empty() {
            "The annotated file".to_owned()
        } else {
            format!("`[{}]`", section.path)
        });
        page.push_str("\n\n");
        let has_free_names = types.contains_key(&section.path);
        if has_free_names {
            free(section, &column_keys(schema), &mut page);
        } else {
            known(section, &types, &mut faults, &mut page);
        }
    }
    let described: BTreeSet<String> = sections
        .iter()
        .flat_map(|section| {
            let below =
                |name: &str| if section.path.is_empty() { name.to_owned() } else { format!("{}.{name}", section.path) };
            let keys =
                section.entries.iter().flat_map(|entry| &entry.keys).map(|(name, ..)| below(name)).collect::<Vec<_>>();
            keys.into_iter().chain([section.path.clone()])
        })
        .collect();
    let known = |path: &str| described.contains(path) || path.starts_with("pipelines.NAME.columns");
    let missing = types.keys().filter(|path| !known(path));
    faults
        .extend(missing.map(|path| format!("{path} is in `tidegate config schema`, and not in config/tidegate.toml")));
    for name in column_keys(schema) {
        let begins = |comment: &&str| {
            comment.split(": ").next().is_some_and(|names| names.split([',', ' ']).any(|word| word == name))
        };
        let columns = sections.iter().find(|section| section.path.ends_with(".columns"));
        let comments = columns.iter().flat_map(|section| &section.entries).flat_map(|entry| &entry.comment);
        if !comments.filter(|comment| comment.contains(": ")).any(begins) {
            faults.push(format!("columns.NAME.{name} has no line `# {name}: …` in config/tidegate.toml"));
        }
    }
    while page.contains("\n\n\n") {
        page = page.replace("\n\n\n", "\n\n");
    }
    (page.trim_end().to_owned() + "\n", faults)
}

fn column_keys(schema: &Value) -> Vec<String> {
    let column =
        &schema["properties"]["pipelines"]["additionalProperties"]["properties"]["columns"]["additionalProperties"];
    let table = column["anyOf"].as_array().and_then(|kinds| kinds.iter().find(|kind| kind["properties"].is_object()));
    let keys = table.and_then(|table| table["properties"].as_object()).expect("a column may be a table");
    keys.keys().cloned().collect()
}

#[test]
fn the_configuration_reference_is_what_the_table_of_keys_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
    let (page, faults) = page(&read("config/tidegate.toml"), &tidegate::config::json_schema());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let file = "docs/configuration.md";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root.join(file), &page).expect("the page is written");
    }
    assert!(read(file) == page, "{file} differs from what the table of keys gives; UPDATE_DOCS=1 writes it again");
}

#[test]
fn a_key_without_a_description_or_a_type_is_found() {
    let schema = serde_json::json!({"properties": {
        "log": {"properties": {"level": {"description": "text"}, "format": {"description": "text"}}},
        "pipelines": {"additionalProperties": {"properties": {"columns": {"additionalProperties": {"anyOf": [
            {"type": "string"}, {"properties": {"type": {}, "unit": {}}},
        ]}}}}},
    }});
    let file = "# All.\n\n[log]\n# How much.\nlevel = \"info\"\n# A colour.\n#colour = true\n\n[pipelines.ride_history.columns]\n# type: any.\n#ts = \"ts\"\n";
    let (page, faults) = page(file, &schema);
    assert_eq!(
        faults,
        [
            "config/tidegate.toml has log.colour, and `tidegate config schema` doesn't",
            "log.format is in `tidegate config schema`, and not in config/tidegate.toml",
            "columns.NAME.unit has no line `# unit: …` in config/tidegate.toml",
        ]
    );
    assert!(page.contains("### `log.level`\n\nHow much.\n\n- `log.level`: text; default `\"info\"`\n"), "{page}");
}
