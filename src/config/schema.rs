//! The keys that exist and their types. Files, environment and faults all use this one table.

/// The type that the value of a configuration key must have. `Table` and `TextOr` contain the keys that the table may have; the
/// value of `TextOr` may also be text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    /// Secret text, which no fault may repeat.
    Secret,
    Integer,
    Float,
    Bool,
    /// Text such as `"8MiB"`.
    Size,
    /// Text such as `"500ms"`.
    Duration,
    List,
    Scalar,
    Table(&'static [Key]),
    TextOr(&'static [Key]),
    /// A table with keys of the user's choice. All values have the same kind.
    Named(&'static Kind),
    /// librdkafka's properties: scalars whose names may contain dots.
    Properties,
    /// Postgres' settings: scalars whose names may contain dots.
    Settings,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

pub(super) static ROOT: Kind = Kind::Table(&[
    key("instance", Kind::Text),
    key(
        "kafka",
        Kind::Table(&[
            key("bootstrap_servers", Kind::Text),
            key("token_command", Kind::List),
            key("properties", Kind::Properties),
        ]),
    ),
    key(
        "postgres",
        Kind::Table(&[
            key("url", Kind::Secret),
            key("url_file", Kind::Text),
            key("password_file", Kind::Text),
            key("password_command", Kind::List),
            key("session", Kind::Settings),
            key("connect_timeout", Kind::Duration),
            key("lock_timeout", Kind::Duration),
            key("statement_timeout", Kind::Duration),
            key("write_timeout", Kind::Duration),
            key("idle_in_transaction_timeout", Kind::Duration),
        ]),
    ),
    key(
        "schema_registry",
        Kind::Table(&[
            key("url", Kind::Text),
            key("username", Kind::Text),
            key("password", Kind::Secret),
            key("password_file", Kind::Text),
            key("token", Kind::Secret),
            key("token_file", Kind::Text),
            key("ca_file", Kind::Text),
            key("timeout", Kind::Duration),
        ]),
    ),
    key("http", Kind::Table(&[key("listen", Kind::Text), key("url", Kind::Text)])),
    key("log", Kind::Table(&[key("format", Kind::Text), key("level", Kind::Text)])),
    key(
        "limits",
        Kind::Table(&[
            key("memory", Kind::Size),
            key("drain_timeout", Kind::Duration),
            key("claim_grace", Kind::Duration),
        ]),
    ),
    key("pipelines", Kind::Named(&Kind::Table(PIPELINE))),
]);

static PIPELINE: &[Key] = &[
    key("topics", Kind::List),
    key("topic_pattern", Kind::Text),
    key("group", Kind::Text),
    key("consumers", Kind::Integer),
    key("start", Kind::Text),
    key("group_protocol", Kind::Text),
    key(
        "decode",
        Kind::Table(&[
            key("format", Kind::Text),
            key("envelope", Kind::Text),
            key("columns", Kind::List),
            key("delimiter", Kind::Text),
            key("quote", Kind::Text),
            key("null", Kind::Text),
            key("schema_file", Kind::Text),
            key("framing", Kind::Text),
            key("message", Kind::Text),
            key("include", Kind::List),
            key("rows", Kind::Text),
            key("key_format", Kind::Text),
            key("key_schema_file", Kind::Text),
        ]),
    ),
    key(
        "batch",
        Kind::Table(&[key("max_rows", Kind::Integer), key("max_bytes", Kind::Size), key("max_age", Kind::Duration)]),
    ),
    key("flow", Kind::Table(&[key("max_rows_per_second", Kind::Integer)])),
    key(
        "table",
        Kind::Table(&[
            key("name", Kind::Text),
            key("mode", Kind::Text),
            key("key", Kind::List),
            key("newer_by", Kind::Text),
            key("deletes", Kind::Bool),
            key("delete_where", Kind::Table(CONDITION)),
            key("create", Kind::Bool),
            key("after_create", Kind::List),
            key("evolve", Kind::Text),
            key("max_tables", Kind::Integer),
            key("sort_by", Kind::List),
            key(
                "partition_by",
                Kind::Table(&[
                    key("column", Kind::Text),
                    key("interval", Kind::Text),
                    key("ahead", Kind::Integer),
                    key("retention", Kind::Duration),
                    key("expired", Kind::Text),
                    key("default", Kind::Bool),
                ]),
            ),
        ]),
    ),
    key("where", Kind::Table(CONDITION)),
    key("columns", Kind::Named(&Kind::TextOr(COLUMN))),
    key("unknown_fields", Kind::TextOr(&[key("column", Kind::Text)])),
    key("on_offset_loss", Kind::Text),
    key(
        "dead_letters",
        Kind::Table(&[
            key("max_share", Kind::Float),
            key("window", Kind::Duration),
            key("min_count", Kind::Integer),
            key("retention", Kind::Duration),
            key("max_size", Kind::Size),
        ]),
    ),
    key("kafka", Kind::Properties),
];

static COLUMN: &[Key] = &[
    key("field", Kind::Text),
    key("meta", Kind::Text),
    key("header", Kind::Text),
    key("type", Kind::Text),
    key("unit", Kind::Text),
    key("default", Kind::Scalar),
    key("zone", Kind::Text),
    key("missing", Kind::Text),
    key("keep", Kind::Text),
    key("value", Kind::Scalar),
    key("scale", Kind::Float),
    key("offset", Kind::Float),
    key("parse", Kind::Text),
    key("hash", Kind::Text),
    key("hash_key_file", Kind::Text),
    key("nul", Kind::Text),
    key("not_null", Kind::Bool),
    key("aggregate", Kind::Text),
    key("by", Kind::Text),
    key("where", Kind::Table(CONDITION)),
];

static CONDITION: &[Key] = &[
    key("field", Kind::Text),
    key("equals", Kind::Scalar),
    key("not_equals", Kind::Scalar),
    key("exists", Kind::Bool),
    key("greater", Kind::Float),
    key("less", Kind::Float),
];

impl Kind {
    /// Returns the keys that a table of this kind may have. Empty if the user names the keys, or if this isn't a table.
    pub(super) fn keys(&self) -> &'static [Key] {
        match self {
            Kind::Table(keys) | Kind::TextOr(keys) => keys,
            _ => &[],
        }
    }

    pub(super) fn at(&self, name: &str) -> Option<Kind> {
        match self {
            Kind::Table(keys) | Kind::TextOr(keys) => keys.iter().find(|key| key.name == name).map(|key| key.kind),
            Kind::Named(kind) => Some(**kind),
            Kind::Properties | Kind::Settings => Some(Kind::Scalar),
            _ => None,
        }
    }

    /// Returns whether names in this table may contain dots. TOML reads such a name without quotes
    /// (`sasl.password = …`) as a nested table, so the keys of nested tables are joined by dots into one name.
    pub(super) fn is_flat(&self) -> bool {
        matches!(self, Kind::Properties | Kind::Settings)
    }

    pub(super) fn expected(&self) -> &'static str {
        match self {
            Kind::Text | Kind::Secret => "text",
            Kind::Integer => "a whole number",
            Kind::Float => "a number",
            Kind::Bool => "true or false",
            Kind::Size => "a size with its unit",
            Kind::Duration => "a duration with its unit",
            Kind::List => "an array of text",
            Kind::Scalar => "text, a number or a boolean",
            Kind::TextOr(_) => "text or a table",
            Kind::Table(_) | Kind::Named(_) | Kind::Properties | Kind::Settings => "a table",
        }
    }
}
