//! Checks the pages of the documentation. Each link within the repository leads to an existing file, and to an existing heading
//! if it names one. Each page is a chapter of the book. Each page that the sources name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

/// Relative to the root of the repository.
const BOOK: &str = "docs";

struct Page {
    anchors: BTreeSet<String>,
    targets: Vec<String>,
}

impl Page {
    fn read(text: &str) -> Page {
        let mut page = Page { anchors: BTreeSet::new(), targets: Vec::new() };
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let text = heading.take().expect("a heading ends after its start");
                    let unique = page.unique(&anchor(&text));
                    page.anchors.insert(unique);
                }
                Event::Text(part) | Event::Code(part) => {
                    if let Some(text) = &mut heading {
                        text.push_str(&part);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.targets.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        page
    }

    /// Returns the anchor of a heading. If the same anchor occurs earlier on the page, a number is appended, as mdBook does.
    fn unique(&self, anchor: &str) -> String {
        let mut numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let mut candidate = anchor.to_owned();
        while self.anchors.contains(&candidate) {
            candidate = numbered.next().expect("numbers don't end");
        }
        candidate
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Returns the path with each `..` resolved; `None` if the path leads out of the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(normal)
}

/// Returns the faults of the links in `pages`. Paths are relative to the repository's root. `exists` is asked about files that
/// aren't pages.
fn faults(pages: &BTreeMap<PathBuf, Page>, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, page) in pages {
        for target in &page.targets {
            if ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
                continue;
            }
            let (file, anchor) = match target.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (target.as_str(), None),
            };
            let folder = path.parent().expect("a page lies in a folder");
            let file = if file.is_empty() { Some(path.clone()) } else { normal(&folder.join(file)) };
            let fault = match &file {
                None => "leaves the repository",
                Some(file) if path.starts_with(BOOK) && !file.starts_with(BOOK) => {
                    "leaves the book; write the path as code"
                }
                Some(file) => match (pages.get(file), anchor) {
                    (Some(page), Some(anchor)) if !page.anchors.contains(anchor) => "has no such heading",
                    (Some(_), _) => continue,
                    (None, None) if exists(file) => continue,
                    (None, _) => "doesn't exist",
                },
            };
            faults.push(format!("{}: {target} {fault}", path.display()));
        }
    }
    faults
}

/// Returns the text of a page, with each include replaced by the included text, as mdBook does.
fn text_of(root: &Path, path: &Path) -> String {
    let text = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let include = Regex::new(r"(?m)^\{\{#include (\S+)\}\}$").expect("a pattern");
    let folder = path.parent().expect("a page lies in a folder");
    let included = |found: &regex::Captures<'_>| {
        let path = normal(&folder.join(&found[1])).expect("an include is in the repository");
        text_of(root, &path)
    };
    include.replace_all(&text, included).into_owned()
}

fn markdown_in(root: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join(folder)).expect("a folder of the repository");
    let names = entries.map(|entry| Path::new(folder).join(entry.expect("an entry").file_name()));
    names.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn pages(root: &Path) -> BTreeMap<PathBuf, Page> {
    let paths = markdown_in(root, "").into_iter().chain(markdown_in(root, BOOK));
    paths.map(|path| (path.clone(), Page::read(&text_of(root, &path)))).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages(root);
    assert!(pages.values().map(|page| page.targets.len()).sum::<usize>() > 50, "the pages have links");
    let faults = faults(&pages, |file| root.join(file).exists());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    let page = |text: &str| Page::read(text);
    let pages = BTreeMap::from([
        (
            "docs/a.md".into(),
            page("# A\n\n## Two words\n\n## Two words\n\n[1](b.md) [2](#two-words-1) [3](b.md#over-there)"),
        ),
        (
            "docs/b.md".into(),
            page("# B\n\n## Over `there`\n\n![4](demo/x.svg) [5](c.md) [6](#over) [7](a.md#three) [8](../README.md)"),
        ),
        (
            "README.md".into(),
            page("[9](docs/a.md#a) [10](docs/a.md#b) [11](../elsewhere.md) [12](https://example.com/x#y)"),
        ),
    ]);
    let found = faults(&pages, |file| file == Path::new("docs/demo/x.svg"));
    assert_eq!(
        found,
        [
            "README.md: docs/a.md#b has no such heading",
            "README.md: ../elsewhere.md leaves the repository",
            "docs/b.md: c.md doesn't exist",
            "docs/b.md: #over has no such heading",
            "docs/b.md: a.md#three has no such heading",
            "docs/b.md: ../README.md leaves the book; write the path as code",
        ]
    );
}

#[test]
fn every_page_is_a_chapter() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let summary = Page::read(&text_of(root, Path::new("docs/SUMMARY.md")));
    let chapters: BTreeSet<PathBuf> = summary.targets.iter().map(|target| Path::new(BOOK).join(target)).collect();
    assert_eq!(chapters.len(), summary.targets.len(), "no chapter occurs twice");
    let pages: BTreeSet<PathBuf> =
        markdown_in(root, BOOK).into_iter().filter(|path| !path.ends_with("SUMMARY.md")).collect();
    assert_eq!(chapters, pages, "the chapters of docs/SUMMARY.md and the pages of docs");
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the sources") {
        let path = entry.expect("an entry").path();
        // The packages that the browser tests download are not part of this project.
        if path.is_dir() && !path.ends_with("node_modules") {
            sources(&path, into);
        } else if path.is_file() {
            into.push(path);
        }
    }
}

#[test]
fn pages_that_code_alerts_and_configuration_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages(root);
    let mut files: Vec<PathBuf> = ["Cargo.toml", "Makefile"].map(|name| root.join(name)).into();
    for folder in ["src", "crates", "tools", "tests", "benches", "config", "deploy", "migrations"] {
        sources(&root.join(folder), &mut files);
    }
    // The pattern skips names of one letter, which are examples in tests.
    let named = Regex::new(r"\bdocs/([a-z_-]{2,}\.md)(?:#([a-z0-9_-]+))?").expect("a pattern");
    let (mut found, mut faults) = (0, Vec::new());
    for file in files {
        // Pictures and archives are not text.
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for place in named.captures_iter(&text) {
            found += 1;
            let page = pages.get(&Path::new(BOOK).join(&place[1]));
            let has = page.is_some_and(|page| place.get(2).is_none_or(|anchor| page.anchors.contains(anchor.as_str())));
            if !has {
                faults.push(format!("{}: {}", file.strip_prefix(root).expect("below the root").display(), &place[0]));
            }
        }
    }
    assert!(found > 30, "{found} places name a page");
    assert!(faults.is_empty(), "no such page or heading:\n{}", faults.join("\n"));
}
