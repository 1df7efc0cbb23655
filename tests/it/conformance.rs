//! The conformance table, `docs/conformance.md`. The types are written in each format and mode to a real database. Each result
//! must be that of INSERT, and the page must show these results.
//!
//! `UPDATE_DOCS=1 cargo test --test it conformance` rewrites the page.

mod avro;
mod connect;
mod formats;
mod functions;
mod protobuf;
mod raw;
mod types;

use std::fmt::Write as _;
use std::path::Path;

use formats::{Column, Format};
use tidegate_harness::Record;
use types::{OWN_TYPES, TYPES, Type, WITHOUT_ENCODER};

use crate::cli::tidegate;
use crate::support::World;

const MODES: [&str; 4] = ["append", "insert_new", "upsert", "aggregate"];

/// The constraint that the table has for each mode, in the order of [`MODES`].
const KEYS: [&str; 4] = ["", ", UNIQUE (id, turn)", ", UNIQUE (id)", ", UNIQUE (id)"];

fn definition(columns: &[Column], key: &str) -> String {
    let columns: Vec<_> = columns.iter().enumerate().map(|(n, of)| format!("c{n} {}", of.sql)).collect();
    format!("(id int, turn int, {}{key})", columns.join(", "))
}

/// Returns what a mode adds to the configuration: to the table, to the mapping of `turn`, and to the mapping of each tested
/// column.
fn of_mode(mode: &str) -> (&'static str, &'static str, &'static str) {
    match mode {
        "append" => ("", "", ""),
        "insert_new" => (", key = [\"id\", \"turn\"]", "", ""),
        "upsert" => (", key = [\"id\"], newer_by = \"turn\"", "", ""),
        _ => (", key = [\"id\"]", ", aggregate = \"max\"", ", aggregate = \"last\", by = \"turn\""),
    }
}

impl World {
    /// Returns a configuration with one pipeline per mode. `pipeline` returns the lines of a mode's pipeline.
    fn of_modes(&self, modes: &[&str], pipeline: impl Fn(&str) -> String) -> String {
        let mut whole = String::new();
        for mode in modes {
            // In TOML, the mapping is the table `[pipelines.NAME.columns]`, which has the pipeline's name.
            let name = format!("{}_{mode}", self.name);
            let config = self.config(&pipeline(mode).replace("NAME", &self.name)).replace(&self.name, &name);
            match config.find("[pipelines.") {
                Some(at) if !whole.is_empty() => whole += &config[at..],
                _ => whole = config,
            }
        }
        whole
    }
}

impl Format {
    fn pipeline(&self, mode: &str, decode: &str, more: &str) -> String {
        let (table, turn, behind) = of_mode(mode);
        let mut lines = format!(
            "decode = {decode}\n{more}table = {{ name = \"by_{mode}\", mode = \"{mode}\"{table} }}\n\
             [pipelines.NAME.columns]\nid = \"id\"\nturn = {{ field = \"turn\"{turn} }}\n"
        );
        for (n, Column { mapping, below, .. }) in self.columns.iter().enumerate() {
            let dot = if below.is_empty() { "" } else { "." };
            let field = format!("field = \"c{n}{dot}{below}\"");
            // A column with a constant takes no field.
            let parts = [field.as_str(), mapping].into_iter().filter(|part| !part.is_empty());
            let parts: Vec<_> = parts.filter(|part| *part != field || !mapping.starts_with("value")).collect();
            writeln!(lines, "c{n} = {{ {}{behind} }}", parts.join(", ")).expect("a string takes it");
        }
        lines
    }

    /// Writes the values of all columns in each mode. Returns how many were stored correctly. Each column has a row, and each
    /// mode a cell.
    async fn round_trips(&self) -> Vec<Vec<String>> {
        let world = World::new(1).await;
        let folder = tempfile::tempdir().expect("a folder");
        let decode = match &self.schema {
            None => self.decode.clone(),
            Some((name, schema)) => {
                let file = folder.path().join(name);
                std::fs::write(&file, schema).expect("the schema is written");
                self.decode.replace("FILE", &format!("{:?}", file.display().to_string()))
            }
        };
        let key_file = folder.path().join("key");
        std::fs::write(&key_file, functions::KEY).expect("the key is written");
        let key_file = format!("{:?}", key_file.display().to_string());
        let mut sql = OWN_TYPES.to_owned();
        for (table, key) in [("expected", "")].into_iter().chain(MODES.into_iter().zip(KEYS)) {
            let prefix = if table == "expected" { "" } else { "by_" };
            write!(sql, "CREATE TABLE {prefix}{table} {};", definition(&self.columns, key)).expect("a string takes it");
        }
        let (mut records, mut ends) = (Vec::new(), Vec::new());
        for (column, Column { values, .. }) in self.columns.iter().enumerate() {
            for (bytes, text) in values {
                let id = records.len() / 2;
                // Produce an earlier record with the same key, so that the modes that merge have something to merge.
                records.push(self.record(id, 1, None));
                records.push(self.record(id, 2, Some((column, bytes))));
                write!(sql, "INSERT INTO expected (id, turn, c{column}) VALUES ({id}, 2, {});", literal(*text))
                    .expect("a string takes it");
            }
            ends.push(records.len() / 2);
        }
        world.sql(&sql).await;
        world.produce(records);
        let (code, log) = world.drain(
            &world.of_modes(&MODES, |mode| self.pipeline(mode, &decode, "").replace("= KEY", &format!("= {key_file}"))),
        );
        assert_eq!(code, Some(0), "{}: {log}", self.name);
        let letters = "SELECT coalesce(string_agg(DISTINCT detail, E'\\n'), '') FROM tidegate.dead_letter";
        let letters = world.text(letters).await;
        // Each id tests one column, so compare only this column. `ROW` keeps NULL and the empty text apart.
        let same: String = ends.iter().enumerate().fold(String::new(), |mut cases, (n, end)| {
            write!(cases, " WHEN e.id < {end} THEN ROW(r.c{n})::text = ROW(e.c{n})::text").expect("a string takes it");
            cases
        });
        let mut found = vec![Vec::new(); self.columns.len()];
        for mode in MODES {
            let equal = format!(
                "SELECT coalesce(string_agg(e.id::text, ',' ORDER BY e.id), '') FROM expected e \
                 JOIN by_{mode} r ON r.id = e.id AND r.turn = 2 WHERE CASE{same} END"
            );
            let equal = world.text(&equal).await;
            let equal: Vec<usize> = equal.split(',').filter_map(|id| id.parse().ok()).collect();
            let mut start = 0;
            for (cells, end) in found.iter_mut().zip(&ends) {
                let count = equal.iter().filter(|id| (start..*end).contains(*id)).count();
                cells.push(format!("{count} of {}", end - start));
                start = *end;
            }
        }
        assert_eq!(letters, "", "{}: {found:?}", self.name);
        found
    }
}

fn literal(text: Option<&str>) -> String {
    text.map_or("NULL".to_owned(), |text| format!("'{}'", text.replace('\'', "''")))
}

/// Returns each value that INSERT refuses, with its type and the reason of its dead letter.
async fn refusals() -> Vec<(&'static str, &'static str, String)> {
    let world = World::new(1).await;
    let format = formats::json();
    world.sql(&format!("{OWN_TYPES} CREATE TABLE by_append {}", definition(&format.columns, ""))).await;
    let mut connection = world.connect().await;
    let mut records = vec![Record::new("{\"id\":-1}").to(0)];
    let mut tried = Vec::new();
    for (column, Type { sql, refuses, .. }) in TYPES.iter().enumerate() {
        for (value, text) in *refuses {
            let insert = format!("INSERT INTO by_append (c{column}) VALUES ('{text}')");
            let outcome = sqlx::raw_sql(&insert).execute(&mut connection).await;
            assert!(outcome.is_err(), "INSERT takes {text} into {sql}");
            records.push(format.record(tried.len(), 2, Some((column, value.as_bytes()))));
            tried.push((*sql, *value));
        }
    }
    records.push(Record::new("{\"id\":-2}").to(0));
    world.produce(records);
    let more = "dead_letters.max_share = 1.0\n";
    let (code, log) = world.drain(&world.of_modes(&["append"], |mode| format.pipeline(mode, &format.decode, more)));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id DESC) FROM by_append").await, "-1,-2");
    let mut found = Vec::new();
    for (n, (sql, value)) in tried.into_iter().enumerate() {
        let letter = format!("SELECT reason FROM tidegate.dead_letter WHERE record_offset = {}", n + 1);
        found.push((sql, value, world.text(&letter).await));
    }
    found
}

/// Returns each type that has no encoder, with the message of `check` about it.
async fn named_by_check() -> Vec<(&'static str, String)> {
    let world = World::new(1).await;
    let columns: Vec<_> = WITHOUT_ENCODER.iter().enumerate().map(|(n, sql)| format!("c{n} {sql}")).collect();
    world.sql(&format!("CREATE TABLE rides ({})", columns.join(", "))).await;
    let ran = tidegate(&world.config("table.name = \"rides\""), &["check"]);
    assert_eq!(ran.code, 64, "{ran}");
    let said = |n: usize| {
        let column = format!("`c{n}` is");
        let line = ran.out.lines().find(|line| line.contains(&column)).unwrap_or_else(|| panic!("no c{n} in: {ran}"));
        line.split_once("which has no encoder; ").expect("the remedy").1.to_owned()
    };
    WITHOUT_ENCODER.iter().enumerate().map(|(n, sql)| (*sql, said(n))).collect()
}

fn code(text: &str) -> String {
    let text = text.replace('|', "\\|").replace('\n', " ");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

fn section(page: &mut String, format: &Format, cells: &[Vec<String>]) {
    let modes = MODES.join(" | ");
    write!(
        page,
        "\n## {}\n\n| type | mapping | sent as | for example | {modes} |\n|---|---|---|---|---|---|---|---|\n",
        format.name
    )
    .expect("a string takes it");
    for (Column { sql, mapping, sent_as, below, example, .. }, cells) in format.columns.iter().zip(cells) {
        let below = if below.is_empty() { String::new() } else { format!(", its `{below}`") };
        let (sent_as, example) = (sent_as.replace('|', "\\|"), code(example));
        let mapping = if mapping.is_empty() { String::new() } else { code(mapping) };
        writeln!(page, "| {sql} | {mapping} | {sent_as}{below} | {example} | {} |", cells.join(" | "))
            .expect("a string takes it");
    }
    let unsaid: Vec<_> = format.columns.iter().filter(|column| !column.unsaid.is_empty()).collect();
    if unsaid.is_empty() {
        return;
    }
    write!(
        page,
        "\n{} can't express these values, so the figures above don't count them:\n\n| type | sent as | values |\n|---|---|---|\n",
        format.name
    )
    .expect("a string takes it");
    for Column { sql, sent_as, unsaid, .. } in unsaid {
        let values: Vec<_> = unsaid.iter().map(|value| code(value)).collect();
        writeln!(page, "| {sql} | {sent_as} | {} |", values.join(", ")).expect("a string takes it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_table_says_what_the_database_has() {
    let mut page = "# Conformance\n\n\
        This page is made by `UPDATE_DOCS=1 cargo test --test it conformance`, with a real Kafka and a real Postgres. On every run, the same\n\
        test compares the page with its results. A cell such as `5 of 6` says: six values were tried, and five arrived equal to what INSERT\n\
        of the same text gives. NULL is one of the values wherever the format and the mapping can express it. In the modes that merge rows,\n\
        each key has an earlier record.\n\n\
        Values that a format can't express are listed below its table. JSON has no NaN and no infinities; they are sent as text, or bare as\n\
        Python writes them. The tables of Avro and Protobuf end with the types that only these formats have, each written to a column that\n\
        fits it. Fields of CSV and raw values are the text that Postgres reads; json, points, arrays and ranges may also be JSON.\n\n\
        `mood` is an enum, `feeling` a domain over it, `percent` a domain with a check, `price` a domain over `numeric(8,2)`,\n\
        `row_of_three` a domain over `int[]`. `citext` is written as text.\n"
        .to_owned();
    let mut all = Vec::new();
    for format in formats::all() {
        let cells = format.round_trips().await;
        section(&mut page, &format, &cells);
        all.extend(
            format.columns.iter().zip(cells).map(|(column, cells)| (format!("{} {}", format.name, column.sql), cells)),
        );
    }
    all.extend(raw::section(&mut page).await);
    page += "\n## What INSERT refuses is a dead letter\n\n\
         The records before and behind each of these are in the table.\n\n| type | JSON | reason |\n|---|---|---|\n";
    for (sql, value, reason) in refusals().await {
        writeln!(page, "| {sql} | {} | {reason} |", code(value)).expect("a string takes it");
    }
    page += "\n## Types without an encoder\n\n`tidegate check` names them before the first start. \
         [tables.md](tables.md#types-without-an-encoder) has the ways around.\n\n| type | remedy |\n|---|---|\n";
    for (sql, remedy) in named_by_check().await {
        writeln!(page, "| {sql} | {remedy} |").expect("a string takes it");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &page).expect("the page is written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(committed, page, "docs/conformance.md differs from what was found; UPDATE_DOCS=1 writes it again");
    for (name, cells) in all {
        for cell in cells {
            let (equal, of) = cell.split_once(" of ").expect("a cell");
            assert_eq!(equal, of, "{name}");
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
