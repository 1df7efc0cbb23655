//! Shell completions and the JSON Schema of the configuration, used as a shell and an editor use them.

use std::process::Command;

use serde_json::Value;

use crate::support::program;

fn printed(arguments: &[&str]) -> String {
    let run = Command::new(program()).args(arguments).output().expect("tidegate runs");
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).expect("UTF-8")
}

/// Lets bash complete the last of `words`. Returns the words that bash offers.
fn completed(words: &[&str]) -> Vec<String> {
    let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "{}\nCOMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _tidegate tidegate \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        printed(&["completions", "bash"])
    );
    let run = Command::new("bash").args(["--norc", "-c", &script]).output().expect("bash runs");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && err.is_empty(), "{words:?}: {out}{err}");
    out.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_their_subcommands_and_options() {
    assert_eq!(completed(&["tidegate", "che"]), ["check"]);
    assert_eq!(completed(&["tidegate", "dead-letters", "pu"]), ["purge"]);
    assert_eq!(
        completed(&["tidegate", "pipelines", ""]).iter().filter(|word| *word == "resume" || *word == "forget").count(),
        2
    );
    assert_eq!(completed(&["tidegate", "check", "--off"]), ["--offline"]);
    assert_eq!(completed(&["tidegate", "nothing-begins-so"]), [""]);
    for shell in ["zsh", "fish"] {
        let script = printed(&["completions", shell]);
        assert!(["check", "dead-letters", "resume", "offline"].iter().all(|word| script.contains(word)), "{shell}");
    }
}

fn of_table(table: &dyn toml_edit::TableLike) -> Value {
    let members = table.iter().map(|(name, item)| {
        let value = item.as_table_like().map(of_table).or_else(|| item.as_value().map(of_value));
        (name.to_owned(), value.unwrap_or_default())
    });
    Value::Object(members.collect())
}

fn of_value(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => text.value().as_str().into(),
        toml_edit::Value::Integer(number) => (*number.value()).into(),
        toml_edit::Value::Float(number) => (*number.value()).into(),
        toml_edit::Value::Boolean(bool) => (*bool.value()).into(),
        toml_edit::Value::Array(values) => values.iter().map(of_value).collect(),
        toml_edit::Value::InlineTable(table) => of_table(table),
        toml_edit::Value::Datetime(_) => Value::Null,
    }
}

/// Compares a value with our JSON Schema, and adds what is wrong with the value to `faults`. A keyword of the schema that this
/// function doesn't know is a fault too.
fn validate(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match (keyword.as_str(), rule) {
            ("$schema" | "title" | "description", _) => {}
            ("type", Value::String(name)) if is(name) => {}
            ("type", Value::Array(names)) if names.iter().filter_map(Value::as_str).any(is) => {}
            ("type", _) => faults.push(format!("{at}: {value} is not {rule}")),
            ("properties", _) => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = rule.get(name) {
                        validate(schema, member, &format!("{at}.{name}"), faults);
                    }
                }
            }
            ("additionalProperties", _) => {
                let known = |name: &String| schema["properties"].get(name).is_some();
                for (name, member) in value.as_object().into_iter().flatten().filter(|(name, _)| !known(name)) {
                    match rule {
                        Value::Bool(false) => faults.push(format!("{at}: {name} is unknown")),
                        rule => validate(rule, member, &format!("{at}.{name}"), faults),
                    }
                }
            }
            ("items", _) => {
                value.as_array().into_iter().flatten().for_each(|item| validate(rule, item, at, faults));
            }
            ("anyOf", Value::Array(ways)) => {
                let fits = |way: &Value| {
                    let mut faults = Vec::new();
                    validate(way, value, at, &mut faults);
                    faults.is_empty()
                };
                if !ways.iter().any(fits) {
                    faults.push(format!("{at}: {value} fits none of {rule}"));
                }
            }
            _ => faults.push(format!("{at}: the schema has the keyword {keyword}: {rule}")),
        }
    }
}

#[test]
fn the_printed_json_schema_accepts_each_configuration_of_ours_and_no_misspelt_key() {
    let schema: Value = serde_json::from_str(&printed(&["config", "schema"])).expect("JSON");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let faults_of = |text: &str| {
        let document: toml_edit::DocumentMut = text.parse().expect("TOML");
        let value = of_table(document.as_table());
        let mut faults = Vec::new();
        validate(&schema, &value, "", &mut faults);
        faults
    };
    let files = std::fs::read_dir(folder).expect("the folder").map(|file| file.expect("a file").path());
    let files: Vec<_> = files.filter(|file| file.extension().is_some_and(|name| name == "toml")).collect();
    assert!(files.iter().any(|file| file.ends_with("tidegate.toml")), "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it is read");
        assert_eq!(faults_of(&text), [""; 0], "{}", file.display());
    }
    for (text, fault) in [
        ("[kafka]\nbootstrap = \"h:1\"", ".kafka: bootstrap is unknown"),
        ("[pipelines.rides]\nconsumers = \"4\"", ".pipelines.rides.consumers: \"4\" is not \"integer\""),
        ("[pipelines.rides.columns]\nid = 1", ".pipelines.rides.columns.id: 1 fits none of"),
    ] {
        let faults = faults_of(text);
        assert!(matches!(faults.as_slice(), [only] if only.starts_with(fault)), "{faults:?}");
    }
}
