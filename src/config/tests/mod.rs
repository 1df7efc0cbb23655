//! Tests of the whole configuration, from the texts of files to settings or faults.

mod faults;
mod files;
mod layers;
mod print;
mod reference;
mod secrets;
mod values;

use super::{Config, Faults};

const BASE: &str = r#"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[postgres]
url = "postgres://tidegate@127.0.0.1:5432/telemetry"
[pipelines.rides]
topics = ["telemetry"]
table.name = "rides"
"#;

fn with(more: &str) -> String {
    format!("{BASE}{more}\n")
}

fn parse(toml: &str) -> Result<Config, Faults> {
    Config::parse("tidegate.toml", toml)
}

/// Returns the texts of the faults of [`BASE`] with `more`. Line numbers are counted from the first line of `more`.
fn faults(more: &str) -> Vec<String> {
    let lines_before = BASE.matches('\n').count();
    let Err(faults) = parse(&with(more)) else { return Vec::new() };
    let relative = |text: String| {
        let mut parts = text.splitn(3, ':').map(str::to_owned).collect::<Vec<_>>();
        if let Some(line) = parts.get(1).and_then(|line| line.parse::<usize>().ok()) {
            parts[1] = line.checked_sub(lines_before).map_or("base".to_owned(), |line| line.to_string());
        }
        parts.join(":")
    };
    faults.iter().map(|fault| relative(fault.to_string())).collect()
}

/// Reads the texts as files, in this order, and then the variables, which override all files.
fn load(files: &[&str], env: &[(&str, &str)]) -> Result<Config, Faults> {
    let folder = tempfile::tempdir().expect("a folder");
    let paths: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let path = folder.path().join(format!("{number}.toml"));
            std::fs::write(&path, text).expect("a file");
            path
        })
        .collect();
    Config::load(&paths, env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// Returns the faults as texts, without the folder in file names.
fn load_faults(files: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let Err(faults) = load(files, env) else { return Vec::new() };
    let cut = |text: String| match text.find(".toml") {
        Some(end) => text[text[..end].rfind('/').map_or(0, |slash| slash + 1)..].to_owned(),
        None => text,
    };
    faults.iter().map(|fault| cut(fault.to_string())).collect()
}
