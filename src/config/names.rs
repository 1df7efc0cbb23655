//! The syntax of names: pipelines, instances, topics, tables, columns, types, and paths into a record.

use tidegate_rows::catalog::{LONGEST_NAME, TableName};
use tidegate_rows::copy::types::{self, TypeText};

/// Type names that people write but that Postgres' catalog doesn't have, each with the catalog's name.
const TYPE_ALIASES: &[(&str, &str)] = &[("double", "float8"), ("string", "text")];

/// Accepts any text that isn't empty.
pub(super) fn any(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("empty".to_owned()) } else { Ok(()) }
}

/// Checks a pipeline's name, which is a key in the ledger, a metric label and a part of the names of environment
/// variables.
pub(super) fn pipeline(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err("a pipeline's name has 1 to 63 of A-Z a-z 0-9 _ -".to_owned())
}

/// Checks a daemon's name, with which the `group.instance.id` of each of the daemon's consumers begins.
pub(super) fn instance(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=100).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err("an instance's name has 1 to 100 of A-Z a-z 0-9 . _ -".to_owned())
}

pub(super) fn topic(name: &str) -> Result<(), String> {
    if name.starts_with('^') {
        return Err(format!("{name:?} is a pattern; write topic_pattern = {name:?}"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=249).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".." {
        return Ok(());
    }
    Err(format!("{name:?} is not a topic's name; Kafka's have 1 to 249 of A-Z a-z 0-9 . _ -"))
}

/// Checks the name of a schema, a table or a column, without its quotes.
pub(super) fn identifier(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains('\0') {
        return Err(format!("{name:?} is not a name that Postgres accepts"));
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("{name:?} has {} bytes; Postgres cuts names after {LONGEST_NAME}", name.len()));
    }
    Ok(())
}

/// Reads `schema.table`, or `table` in schema public. Parts that contain dots or quotes are in double quotes, as in SQL.
pub(crate) fn table(text: &str) -> Result<TableName, String> {
    let mut parts = vec![String::new()];
    let mut in_quotes = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = parts.last_mut().expect("there is always one part");
        match c {
            '"' if in_quotes && chars.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => in_quotes = !in_quotes,
            '.' if !in_quotes => parts.push(String::new()),
            other => part.push(other),
        }
    }
    let (schema, name) = match (in_quotes, parts.as_slice()) {
        (false, [name]) => ("public", name.as_str()),
        (false, [schema, name]) => (schema.as_str(), name.as_str()),
        _ => return Err(format!("{text:?} is not a table's name; write \"schema.table\"")),
    };
    identifier(schema)?;
    identifier(name)?;
    if schema == "tidegate" {
        return Err("schema tidegate holds the ledger; choose another schema".to_owned());
    }
    Ok(TableName { schema: schema.to_owned(), name: name.to_owned() })
}

/// Reads a column's type. Returns its name in `pg_type`, with the modifier: `double precision` becomes `float8`, and
/// `decimal(10, 2)[]` becomes `numeric(10,2)[]`.
pub(super) fn column_type(text: &str) -> Result<String, String> {
    let lower = text.trim().to_lowercase();
    let (scalar, brackets) = match lower.split_once('[') {
        Some((scalar, _)) => (scalar.trim_end(), &lower[scalar.len()..]),
        None => (lower.as_str(), ""),
    };
    let named = TYPE_ALIASES.iter().find(|(alias, _)| *alias == scalar).map_or(scalar, |(_, name)| name);
    let parsed = types::parse(&format!("{named}{brackets}"));
    // Postgres accepts a scale above the precision, but it is always a mistake.
    let meant = |parsed: &TypeText| !matches!(parsed.modifiers, (Some(precision), Some(scale)) if scale > precision);
    if let Some(sql) = parsed.filter(meant).and_then(TypeText::to_sql) {
        return Ok(sql);
    }
    let base = named.split('(').next().unwrap_or(named).trim_end();
    if types::parse(base).is_some() {
        return Err(format!("{text:?} has a modifier that Postgres does not take for {base}"));
    }
    let names = types::KNOWN.iter().map(|known| known.name);
    let all = names.clone().chain(types::KNOWN.iter().flat_map(|known| known.aliases.iter().copied()));
    Err(match super::fault::nearest(base, all.chain(TYPE_ALIASES.iter().map(|(alias, _)| *alias))) {
        Some(meant) => format!("{text:?} is not a type that Tidegate writes, did you mean {meant:?}?"),
        None => {
            let names: Vec<_> = names.collect();
            format!("{text:?} is not a type that Tidegate writes; it writes {}, and arrays of them", names.join(", "))
        }
    })
}

/// Reads a path into a record: `position.lat` is two levels, `\.` a dot in a name, `\\` a backslash.
pub(super) fn field_path(text: &str) -> Result<Vec<String>, String> {
    let mut path = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let level = path.last_mut().expect("there is always one level");
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('.' | '\\')) => level.push(escaped),
                _ => return Err(format!("{text:?}: a backslash may only precede a dot or another backslash")),
            },
            '.' => path.push(String::new()),
            other => level.push(other),
        }
    }
    if path.iter().any(String::is_empty) {
        return Err(format!("{text:?} has an empty level; a dot in a name is written \\."));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_a_schema_is_public_and_quotes_keep_dots() {
        let name = |text| table(text).map(|table| (table.schema, table.name));
        let is = |schema: &str, name: &str| Ok((schema.to_owned(), name.to_owned()));
        assert_eq!(name("rides"), is("public", "rides"));
        assert_eq!(name("geo.rides"), is("geo", "rides"));
        assert_eq!(name("\"Geo.Data\".\"a\"\"b\""), is("Geo.Data", "a\"b"));
        for wrong in ["", "a.b.c", "a.", ".b", "\"a", "tidegate.ledger"] {
            assert!(table(wrong).is_err(), "{wrong}");
        }
        assert!(table(&"x".repeat(64)).is_err());
    }

    #[test]
    fn types_go_by_the_names_of_postgres() {
        let cases = [
            ("float8", "float8"),
            ("Double Precision", "float8"),
            ("varchar(16)", "varchar(16)"),
            ("decimal (10, 2)", "numeric(10,2)"),
            ("timestamp with time zone", "timestamptz"),
            ("character(3)", "bpchar(3)"),
            ("tstzrange", "tstzrange"),
            ("INT[]", "int4[]"),
            ("decimal(10,2) []", "numeric(10,2)[]"),
        ];
        for (text, name) in cases {
            assert_eq!(column_type(text).as_deref(), Ok(name));
        }
        for wrong in ["", "int8(3)", "varchar(0)", "varchar()", "varchar(5", "numeric(2,3)", "text; drop table x"] {
            assert!(column_type(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            column_type("timestampz").expect_err("no such type"),
            "\"timestampz\" is not a type that Tidegate writes, did you mean \"timestamptz\"?"
        );
    }

    #[test]
    fn a_field_path_has_levels_and_escaped_dots() {
        let path = |text| field_path(text).map(|path| path.join("|"));
        assert_eq!(path("position.lat").as_deref(), Ok("position|lat"));
        assert_eq!(path(r"a\.b.c\\d").as_deref(), Ok(r"a.b|c\d"));
        for wrong in ["", "a.", ".a", "a..b", r"a\", r"a\n"] {
            assert!(field_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn topics_go_by_the_rules_of_kafka() {
        for right in ["telemetry", "a.b_c-9", &"x".repeat(249)] {
            assert_eq!(topic(right), Ok(()));
        }
        for wrong in ["", ".", "..", "a b", "ä", "^a", &"x".repeat(250)] {
            assert!(topic(wrong).is_err(), "{wrong}");
        }
    }
}
