//! `raw`: the whole value is one field, so each type needs its own table. A header of the record names the table.

use std::fmt::Write as _;

use tidegate_harness::Record;

use super::avro::unhex;
use super::formats::lexical;
use super::types::{OWN_TYPES, TYPES, Type};
use super::{KEYS, MODES, literal, of_mode};
use crate::support::World;

/// Types for which a raw value is useful. All tables share one mapping, so types that need a `unit` are left out.
const OF_USE: &[&str] = &[
    "bool",
    "int8",
    "float8",
    "numeric",
    "text",
    "varchar(5)",
    "bytea",
    "date",
    "timestamptz",
    "uuid",
    "json",
    "jsonb",
    "inet",
    "point",
    "mood",
    "int4[]",
    "text[]",
    "int4range",
];

fn types() -> impl Iterator<Item = (usize, &'static Type)> {
    TYPES.iter().enumerate().filter(|(_, of)| of.unit.is_empty() && OF_USE.contains(&of.sql))
}

fn bytes(of: &Type, json: &str, text: &str) -> Vec<u8> {
    if of.sql == "bytea" { unhex(text) } else { lexical(of, json, text).into_bytes() }
}

/// Writes the section about `raw` of the conformance page. Returns each type with the cells of its table row.
pub(super) async fn section(page: &mut String) -> Vec<(String, Vec<String>)> {
    let world = World::new(1).await;
    let (mut sql, mut records) = (OWN_TYPES.to_owned(), Vec::new());
    for (n, of) in types() {
        for (table, key) in [("expected", "")].into_iter().chain(MODES.into_iter().zip(KEYS)) {
            write!(sql, "CREATE TABLE {table}_{n} (id int, turn int, v {}{key});", of.sql).expect("a string takes it");
        }
        for (id, (json, text)) in of.takes.iter().enumerate() {
            let (first, first_text) = of.takes[0];
            for (turn, value) in [("1", bytes(of, first, first_text)), ("2", bytes(of, json, text))] {
                let record = Record::new(value).to(0).header("table", n.to_string());
                records.push(record.header("id", id.to_string()).header("turn", turn));
            }
            write!(sql, "INSERT INTO expected_{n} VALUES ({id}, 2, {});", literal(Some(text)))
                .expect("a string takes it");
        }
    }
    world.sql(&sql).await;
    world.produce(records);
    let config = world.of_modes(&MODES, |mode| {
        let (table, turn, behind) = of_mode(mode);
        format!(
            "decode.format = \"raw\"\ntable = {{ name = \"{mode}_{{header:table}}\", mode = \"{mode}\"{table} }}\n\
             [pipelines.NAME.columns]\nid = {{ header = \"id\" }}\nturn = {{ header = \"turn\"{turn} }}\n\
             v = {{ field = \"value\"{behind} }}\n"
        )
    });
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let letters = "SELECT coalesce(string_agg(DISTINCT detail, E'\\n'), '') FROM tidegate.dead_letter";
    assert_eq!(world.text(letters).await, "", "raw");
    write!(
        page,
        "\n## raw\n\nThe whole value is one field; each type's table is named by a header, in all modes. An empty value is an empty\n\
         text: there is no way to say NULL. bytea has the value's bytes, all others its text.\n\n\
         | type | for example | {} |\n|---|---|---|---|---|---|\n",
        MODES.join(" | ")
    )
    .expect("a string takes it");
    let mut all = Vec::new();
    for (n, of) in types() {
        let mut cells = Vec::new();
        for mode in MODES {
            let equal = format!(
                "SELECT count(*) FROM expected_{n} e JOIN {mode}_{n} r USING (id, turn) WHERE ROW(r.v)::text = ROW(e.v)::text"
            );
            cells.push(format!("{} of {}", world.number(&equal).await, of.takes.len()));
        }
        let example = super::code(&lexical(of, of.takes[0].0, of.takes[0].1));
        writeln!(page, "| {} | {example} | {} |", of.sql, cells.join(" | ")).expect("a string takes it");
        all.push((format!("raw {}", of.sql), cells));
    }
    all
}
