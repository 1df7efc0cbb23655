//! The conformance table, `docs/conformance.md`: each type in each format and each mode, a round trip on the real database held
//! against the same value by INSERT. The test fails where the page says another thing than it found.
//!
//! `UPDATE_DOCS=1 cargo test --test it conformance` writes the page anew.
//!
//! A further format is one more line of [`FORMATS`]: how it says a value that is given as JSON, and the pipeline's `decode`.

mod types;

use std::fmt::Write as _;
use std::path::Path;

use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::World;
use types::{OWN_TYPES, TYPES, Type, WITHOUT_ENCODER};

/// A way to write records.
struct Format {
    name: &'static str,
    /// Lines of the pipeline's configuration.
    decode: &'static str,
    /// A record of these fields, each with its JSON.
    record: fn(&[(&str, &str)]) -> Record,
}

const FORMATS: &[Format] = &[Format { name: "JSON", decode: "decode.format = \"json\"", record: json }];

const MODES: [&str; 4] = ["append", "insert_new", "upsert", "aggregate"];

fn json(fields: &[(&str, &str)]) -> Record {
    let members: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    Record::new(format!("{{{}}}", members.join(",")))
}

/// One value to try: the column that takes it, and the row's id.
struct Trial {
    id: usize,
    column: usize,
    json: &'static str,
    text: Option<&'static str>,
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (column, Type { takes, .. }) in TYPES.iter().enumerate() {
        let with_null = takes.iter().map(|(json, text)| (*json, Some(*text))).chain([("null", None)]);
        for (json, text) in with_null {
            trials.push(Trial { id: trials.len(), column, json, text });
        }
    }
    trials
}

fn definition(key: &str) -> String {
    let columns: Vec<_> = TYPES.iter().enumerate().map(|(n, of)| format!("c{n} {}", of.sql)).collect();
    format!("(id int, turn int, {}{key})", columns.join(", "))
}

/// The mapping, each column with `more` behind it.
fn mapping(more: &str) -> String {
    TYPES.iter().enumerate().fold(String::new(), |mut lines, (n, Type { unit, .. })| {
        let unit = if unit.is_empty() { String::new() } else { format!(", unit = \"{unit}\"") };
        writeln!(lines, "c{n} = {{ field = \"c{n}\"{unit}{more} }}").expect("a string takes it");
        lines
    })
}

impl World {
    /// A configuration for a pipeline of its own name.
    fn of_mode(&self, format: &Format, mode: &str) -> String {
        let (key, turn, more) = match mode {
            "append" => ("", "", ""),
            "insert_new" => (", key = [\"id\", \"turn\"]", "", ""),
            "upsert" => (", key = [\"id\"], newer_by = \"turn\"", "", ""),
            _ => (", key = [\"id\"]", ", aggregate = \"max\"", ", aggregate = \"last\", by = \"turn\""),
        };
        let pipeline = format!(
            "{}\ntable = {{ name = \"by_{mode}\", mode = \"{mode}\"{key} }}\n[pipelines.{}.columns]\nid = \"id\"\n\
             turn = {{ field = \"turn\"{turn} }}\n{}",
            format.decode,
            self.name,
            mapping(more)
        );
        self.config(&pipeline).replace(&self.name, &format!("{}_{mode}", self.name))
    }
}

/// For each type how many of its values came through, mode by mode.
async fn round_trips(format: &Format) -> Vec<Vec<String>> {
    let world = World::new(1).await;
    let trials = trials();
    let mut sql = OWN_TYPES.to_owned();
    for (table, key) in [("expected", ""), ("by_append", ""), ("by_insert_new", ", UNIQUE (id, turn)")]
        .into_iter()
        .chain([("by_upsert", ", UNIQUE (id)"), ("by_aggregate", ", UNIQUE (id)")])
    {
        write!(sql, "CREATE TABLE {table} {};", definition(key)).expect("a string takes it");
    }
    let mut records = Vec::new();
    for Trial { id, column, json, text } in &trials {
        let (id, name) = (id.to_string(), format!("c{column}"));
        // An earlier record of the same key, so that a mode that merges has something to do.
        records.push((format.record)(&[("id", &id), ("turn", "1")]).to(0));
        records.push((format.record)(&[("id", &id), ("turn", "2"), (&name, json)]).to(0));
        let text = text.map_or("NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''")));
        write!(sql, "INSERT INTO expected (id, turn, {name}) VALUES ({id}, 2, {text});").expect("a string takes it");
    }
    world.sql(&sql).await;
    world.produce(records);
    let mut found = vec![Vec::new(); TYPES.len()];
    for mode in MODES {
        let (code, log) = world.drain(&world.of_mode(format, mode));
        assert_eq!(code, Some(0), "{log}");
        let same = format!(
            "SELECT coalesce(string_agg(e.id::text, ',' ORDER BY e.id), '') FROM expected e \
             JOIN by_{mode} r ON r.id = e.id AND r.turn = 2 WHERE r::text = e::text"
        );
        let same = world.text(&same).await;
        let same: Vec<usize> = same.split(',').filter_map(|id| id.parse().ok()).collect();
        for (column, cells) in found.iter_mut().enumerate() {
            let of_type: Vec<_> = trials.iter().filter(|trial| trial.column == column).collect();
            let equal = of_type.iter().filter(|trial| same.binary_search(&trial.id).is_ok()).count();
            cells.push(format!("{equal} of {}", of_type.len()));
        }
    }
    assert_eq!(world.text("SELECT coalesce(string_agg(detail, E'\\n'), '') FROM tidegate.dead_letter").await, "");
    found
}

/// Every value that INSERT refuses, with the reason of its dead letter.
async fn refusals() -> Vec<(&'static str, &'static str, String)> {
    let world = World::new(1).await;
    world.sql(&format!("{OWN_TYPES} CREATE TABLE by_append {}", definition(""))).await;
    let mut connection = world.connect().await;
    let mut records = vec![json(&[("id", "-1")]).to(0)];
    let mut tried = Vec::new();
    for (column, Type { sql, refuses, .. }) in TYPES.iter().enumerate() {
        for (value, text) in *refuses {
            let insert = format!("INSERT INTO by_append (c{column}) VALUES ('{text}')");
            let outcome = sqlx::raw_sql(&insert).execute(&mut connection).await;
            assert!(outcome.is_err(), "INSERT takes {text} into {sql}");
            records.push(json(&[("id", &tried.len().to_string()), (&format!("c{column}"), value)]).to(0));
            tried.push((*sql, *value));
        }
    }
    records.push(json(&[("id", "-2")]).to(0));
    world.produce(records);
    let config = world.of_mode(&FORMATS[0], "append") + "\n";
    let config = config.replacen("table =", "dead_letters.max_share = 1.0\ntable =", 1);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id DESC) FROM by_append").await, "-1,-2");
    let mut found = Vec::new();
    for (n, (sql, value)) in tried.into_iter().enumerate() {
        let letter = format!("SELECT reason FROM tidegate.dead_letter WHERE record_offset = {}", n + 1);
        found.push((sql, value, world.text(&letter).await));
    }
    found
}

/// For each type without an encoder, what `check` says.
async fn named_by_check() -> Vec<(&'static str, String)> {
    let world = World::new(1).await;
    let columns: Vec<_> = WITHOUT_ENCODER.iter().enumerate().map(|(n, sql)| format!("c{n} {sql}")).collect();
    world.sql(&format!("CREATE TABLE rides ({})", columns.join(", "))).await;
    let ran = tidegate(&world.config("table.name = \"rides\""), &["check"]);
    assert_eq!(ran.code, 64, "{ran}");
    let said = |n: usize| {
        let column = format!("`c{n}` is");
        let line = ran.err.lines().find(|line| line.contains(&column)).unwrap_or_else(|| panic!("no c{n} in: {ran}"));
        line.split_once("which has no encoder; ").expect("the remedy").1.to_owned()
    };
    WITHOUT_ENCODER.iter().enumerate().map(|(n, sql)| (*sql, said(n))).collect()
}

/// A cell of Markdown.
fn code(text: &str) -> String {
    let text = text.replace('|', "\\|").replace('\n', " ");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_table_says_what_the_database_has() {
    let mut page = "# Conformance\n\n\
        Made by `UPDATE_DOCS=1 cargo test --test it conformance`, and held against the real Kafka and the real Postgres by the same\n\
        test on every run. Each cell: so many values came through equal to what INSERT of the same text gives, of so many tried, NULL\n\
        among them. Modes that merge get an earlier record of each key first.\n\n"
        .to_owned();
    let mut head = "| type | unit | for example |".to_owned();
    let mut rule = "|---|---|---|".to_owned();
    let mut cells = vec![Vec::new(); TYPES.len()];
    for format in FORMATS {
        for (of_type, found) in cells.iter_mut().zip(round_trips(format).await) {
            of_type.extend(found);
        }
        for mode in MODES {
            write!(head, " {} {mode} |", format.name).expect("a string takes it");
            rule += "---|";
        }
    }
    writeln!(page, "{head}\n{rule}").expect("a string takes it");
    for (Type { sql, unit, takes, .. }, cells) in TYPES.iter().zip(&cells) {
        let example = takes.first().map_or("", |(json, _)| json);
        writeln!(page, "| {sql} | {unit} | {} | {} |", code(example), cells.join(" | ")).expect("a string takes it");
    }
    writeln!(
        page,
        "\n`mood` is an enum, `feeling` a domain over it, `percent` a domain with a check, `price` a domain over `numeric(8,2)`,\n\
         `row_of_three` a domain over `int[]`. `citext` is written as text.\n\n## What INSERT refuses is a dead letter\n\n\
         The records before and behind each of these are in the table.\n\n| type | JSON | reason |\n|---|---|---|"
    )
    .expect("a string takes it");
    for (sql, value, reason) in refusals().await {
        writeln!(page, "| {sql} | {} | {reason} |", code(value)).expect("a string takes it");
    }
    writeln!(
        page,
        "\n## Types without an encoder\n\n`tidegate check` names them before the first start. [tables.md](tables.md#types-without-an-encoder) \
         has the ways around.\n\n| type | remedy |\n|---|---|"
    )
    .expect("a string takes it");
    for (sql, remedy) in named_by_check().await {
        writeln!(page, "| {sql} | {remedy} |").expect("a string takes it");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).expect("the page is written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(committed, page, "docs/conformance.md differs from what was found; UPDATE_DOCS=1 writes it anew");
    for (Type { sql, .. }, cells) in TYPES.iter().zip(&cells) {
        for cell in cells {
            let (equal, of) = cell.split_once(" of ").expect("a cell");
            assert_eq!(equal, of, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_without_an_encoder_is_made_by_postgres_from_a_text_column() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE rides (id int, area_text text, area box,
                words_text text, words tsvector GENERATED ALWAYS AS (to_tsvector('simple', words_text)) STORED);
             CREATE FUNCTION area() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.area := NEW.area_text::box; RETURN NEW; END $$;
             CREATE TRIGGER area BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION area()",
        )
        .await;
    world.produce([
        Record::new(r#"{"id":1,"area":"(1,1),(0,0)","words":"to and fro"}"#).to(0),
        Record::new(r#"{"id":2,"area":"somewhere","words":null}"#).to(0),
    ]);
    let config = world.config(
        "table.name = \"rides\"\ndead_letters.max_share = 1.0\ncolumns.id = \"id\"\ncolumns.area_text = \"area\"\n\
         columns.words_text = \"words\"",
    );
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(
        world.text("SELECT concat_ws('|', id, area, words) FROM rides").await,
        "1|(1,1),(0,0)|'and':2 'fro':3 'to':1"
    );
    assert_eq!(world.number("SELECT record_offset FROM tidegate.dead_letter WHERE sqlstate = '22P02'").await, 1);
}
