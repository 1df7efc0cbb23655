//! An Avro schema, parsed from its JSON into numbered nodes.
//!
//! Other nodes refer to a named type by the number of its node, so a recursive type needs no special treatment. A logical type
//! that its underlying type doesn't allow (a date on a string) is ignored, as the Avro specification says.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use crate::json::string;
use crate::schema::MAX_DEPTH;
use crate::schema::logical::Logical;

/// The index of a node in [`AvroSchema::nodes`].
pub(crate) type NodeId = u32;

/// Far more than real schemas have.
const MAX_NODES: usize = 100_000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AvroNode {
    Null,
    Boolean,
    /// An int or a long, which have the same encoding. `int` is set for an int.
    Long {
        int: bool,
    },
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<Box<str>>),
    /// An unscaled number, to be multiplied by 10^`exponent`. `fixed` is the number's length in bytes. If it is `None`, the value
    /// begins with its length.
    Decimal {
        fixed: Option<usize>,
        exponent: i32,
    },
    Day,
    /// A time since midnight, in the unit `unit`; see [`in_micros`](crate::schema::logical::in_micros).
    Clock {
        int: bool,
        unit: i64,
    },
    Instant {
        unit: i64,
        local: bool,
    },
    Uuid,
    /// A UUID as 16 bytes.
    FixedUuid,
    /// A number with a logical type of Kafka Connect or Debezium. `int` is set if the underlying type is int.
    Named {
        int: bool,
        logical: Logical,
    },
    /// Text with a logical type of Debezium.
    NamedText(Logical),
    /// Debezium's `VariableScaleDecimal`: a record of a scale and an unscaled number.
    VariableDecimal,
    /// Months, days and milliseconds, each as a little-endian u32.
    Duration,
    Record {
        name: String,
        fields: Vec<AvroField>,
    },
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AvroField {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    /// The name as a key of JSON: `"name":`.
    pub(crate) key: Box<[u8]>,
    pub(crate) node: NodeId,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AvroSchema {
    pub(crate) nodes: Vec<AvroNode>,
    pub(crate) root: NodeId,
}

impl AvroSchema {
    /// Parses a schema. `references` are the schemas whose types this schema uses, directly or through others. A reference comes
    /// after the references that it uses itself.
    ///
    /// # Errors
    /// If something is wrong with the schema or a reference. The text says what is wrong.
    pub(crate) fn parse(text: &str, references: &[&str]) -> Result<Self, String> {
        let mut reader = SchemaReader { nodes: Vec::new(), names: HashMap::new() };
        for text in references {
            reader.document(text)?;
        }
        let root = reader.document(text)?;
        Ok(Self { nodes: reader.nodes, root })
    }

    #[inline]
    pub(crate) fn node(&self, id: NodeId) -> &AvroNode {
        &self.nodes[id as usize]
    }
}

struct SchemaReader {
    nodes: Vec<AvroNode>,
    names: HashMap<String, NodeId>,
}

impl SchemaReader {
    fn document(&mut self, text: &str) -> Result<NodeId, String> {
        let json: Json = match serde_json::from_str(text) {
            Ok(json) => json,
            // The registry may return a primitive schema without quotes.
            Err(_) if text.chars().all(|c| c.is_ascii_alphanumeric()) => Json::String(text.to_owned()),
            Err(error) => return Err(format!("it is not JSON: {error}")),
        };
        self.read(&json, "", 0)
    }

    fn push(&mut self, node: AvroNode) -> Result<NodeId, String> {
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("it has more than {MAX_NODES} types"));
        }
        self.nodes.push(node);
        Ok(NodeId::try_from(self.nodes.len() - 1).unwrap_or(NodeId::MAX))
    }

    fn read(&mut self, json: &Json, namespace: &str, depth: u32) -> Result<NodeId, String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep".to_owned());
        }
        match json {
            Json::String(name) => self.named(name, namespace),
            Json::Array(branches) => {
                let ids = branches.iter().map(|branch| self.read(branch, namespace, depth + 1));
                let ids = ids.collect::<Result<_, _>>()?;
                self.push(AvroNode::Union(ids))
            }
            Json::Object(object) => self.object(object, namespace, depth),
            _ => Err(format!("{json} is not a type")),
        }
    }

    fn named(&mut self, name: &str, namespace: &str) -> Result<NodeId, String> {
        if let Some(node) = primitive(name) {
            return self.push(node);
        }
        let full = full_name(name, namespace);
        self.names
            .get(&full)
            .or_else(|| self.names.get(name))
            .copied()
            .ok_or_else(|| format!("it uses the type `{full}`, which is defined nowhere"))
    }

    fn object(&mut self, object: &Map<String, Json>, namespace: &str, depth: u32) -> Result<NodeId, String> {
        let kind = object.get("type").ok_or("a type without `type`")?;
        let Json::String(kind) = kind else {
            return self.read(kind, namespace, depth + 1);
        };
        match kind.as_str() {
            "record" | "error" => self.record(object, namespace, depth),
            "enum" => {
                let symbols = texts(object.get("symbols")).ok_or("an enum without `symbols`")?;
                let id = self.push(AvroNode::Enum(symbols.into_iter().map(Into::into).collect()))?;
                self.define(object, namespace, id)?;
                Ok(id)
            }
            "fixed" => {
                let size = object.get("size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or("a fixed without `size`")?;
                let id = self.push(logical(object, AvroNode::Fixed(size)))?;
                self.define(object, namespace, id)?;
                Ok(id)
            }
            "array" | "map" => {
                let (key, array) = if kind == "array" { ("items", true) } else { ("values", false) };
                let inner = object.get(key).ok_or_else(|| format!("{kind} without `{key}`"))?;
                let inner = self.read(inner, namespace, depth + 1)?;
                self.push(if array { AvroNode::Array(inner) } else { AvroNode::Map(inner) })
            }
            name => match primitive(name) {
                Some(node) => self.push(logical(object, node)),
                None => self.named(name, namespace),
            },
        }
    }

    fn record(&mut self, object: &Map<String, Json>, namespace: &str, depth: u32) -> Result<NodeId, String> {
        let name = name_of(object, namespace)?;
        // Register the record before its fields are parsed, because they may contain this record type.
        let id = self.push(AvroNode::Record { name: name.clone(), fields: Vec::new() })?;
        self.define(object, namespace, id)?;
        let inner = name.rsplit_once('.').map_or("", |(space, _)| space);
        let list = object.get("fields").and_then(Json::as_array);
        let mut fields = Vec::new();
        for field in list.ok_or_else(|| format!("record `{name}` has no `fields`"))? {
            let own = field.get("name").and_then(Json::as_str);
            let own = own.ok_or_else(|| format!("record `{name}` has a field without a name"))?;
            let of_field = field.get("type").ok_or_else(|| format!("field `{own}` of `{name}` has no type"))?;
            let node = self.read(of_field, inner, depth + 1)?;
            let mut key = Vec::new();
            string::quote(own.as_bytes(), &mut key);
            key.push(b':');
            let aliases = texts(field.get("aliases")).unwrap_or_default();
            fields.push(AvroField { name: own.to_owned(), aliases, key: key.into(), node });
        }
        let is_variable = connect_name(object) == Some(Logical::VariableDecimal)
            && matches!(
                fields.iter().map(|field| &self.nodes[field.node as usize]).collect::<Vec<_>>()[..],
                [AvroNode::Long { int: true }, AvroNode::Bytes]
            );
        self.nodes[id as usize] =
            if is_variable { AvroNode::VariableDecimal } else { AvroNode::Record { name, fields } };
        Ok(id)
    }

    fn define(&mut self, object: &Map<String, Json>, namespace: &str, id: NodeId) -> Result<(), String> {
        let name = name_of(object, namespace)?;
        self.names.insert(name, id);
        Ok(())
    }
}

fn name_of(object: &Map<String, Json>, namespace: &str) -> Result<String, String> {
    let name = object.get("name").and_then(Json::as_str).ok_or("a named type without `name`")?;
    let own = object.get("namespace").and_then(Json::as_str);
    Ok(full_name(name, own.unwrap_or(namespace)))
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn primitive(name: &str) -> Option<AvroNode> {
    Some(match name {
        "null" => AvroNode::Null,
        "boolean" => AvroNode::Boolean,
        "int" => AvroNode::Long { int: true },
        "long" => AvroNode::Long { int: false },
        "float" => AvroNode::Float,
        "double" => AvroNode::Double,
        "bytes" => AvroNode::Bytes,
        "string" => AvroNode::Text,
        _ => return None,
    })
}

fn texts(json: Option<&Json>) -> Option<Vec<String>> {
    json?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Returns the logical type that Kafka Connect's converter writes beside Avro's own logical type, as `connect.name`.
fn connect_name(object: &Map<String, Json>) -> Option<Logical> {
    Logical::of(object.get("connect.name")?.as_str()?, None)
}

/// Returns the node of the logical type that `object` states. Returns `plain`, the node of the underlying type, if the logical
/// type is unknown or `plain` doesn't allow it.
fn logical(object: &Map<String, Json>, plain: AvroNode) -> AvroNode {
    let exponent = || {
        let scale = object.get("scale").map_or(Some(0), Json::as_i64)?;
        i32::try_from(scale).ok().map(i32::saturating_neg)
    };
    let instant = |unit, local| AvroNode::Instant { unit, local };
    let name = object.get("logicalType").and_then(Json::as_str).unwrap_or_default();
    match (name, &plain) {
        ("decimal", AvroNode::Bytes) => {
            exponent().map_or(plain, |exponent| AvroNode::Decimal { fixed: None, exponent })
        }
        ("decimal", AvroNode::Fixed(size)) => {
            let fixed = Some(*size);
            exponent().map_or(plain, |exponent| AvroNode::Decimal { fixed, exponent })
        }
        ("uuid", AvroNode::Text) => AvroNode::Uuid,
        ("uuid", AvroNode::Fixed(16)) => AvroNode::FixedUuid,
        ("duration", AvroNode::Fixed(12)) => AvroNode::Duration,
        ("date", AvroNode::Long { int: true }) => AvroNode::Day,
        ("time-millis", AvroNode::Long { int: true }) => AvroNode::Clock { int: true, unit: 1_000 },
        ("time-micros", AvroNode::Long { int: false }) => AvroNode::Clock { int: false, unit: 1 },
        ("timestamp-millis", AvroNode::Long { int: false }) => instant(1_000, false),
        ("timestamp-micros", AvroNode::Long { int: false }) => instant(1, false),
        ("timestamp-nanos", AvroNode::Long { int: false }) => instant(-1_000, false),
        ("local-timestamp-millis", AvroNode::Long { int: false }) => instant(1_000, true),
        ("local-timestamp-micros", AvroNode::Long { int: false }) => instant(1, true),
        ("local-timestamp-nanos", AvroNode::Long { int: false }) => instant(-1_000, true),
        _ => match (connect_name(object), &plain) {
            (Some(logical @ (Logical::Json | Logical::ZonedTimestamp)), AvroNode::Text) => AvroNode::NamedText(logical),
            (
                Some(logical @ (Logical::Day | Logical::Clock(_) | Logical::Instant(_) | Logical::Span(_))),
                AvroNode::Long { int },
            ) => AvroNode::Named { int: *int, logical },
            _ => plain,
        },
    }
}
