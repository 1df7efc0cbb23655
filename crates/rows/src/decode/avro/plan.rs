//! Plans what to do with each field of a writer's schema, from the paths that the columns need.

use crate::decode::Leftovers;
use crate::decode::Path;
use crate::schema::avro::{AvroField, AvroNode, AvroSchema, NodeId};

/// How to treat fields without a column, and the path from the current value to the Avro record that contains these fields. The
/// path is empty if the current value is that record. `None` if the current value doesn't contain that record.
type Rest<'a> = Option<(Leftovers, &'a [String])>;

/// How to treat a value.
/// - `Slot`: a column takes the whole value. The number is the column's slot.
/// - `Into`: columns take parts of the value. The number is the index of the plan for the parts, in [`AvroPlan::places`].
/// - `Both`: one column takes the whole value, and others take parts of it. The numbers are those of `Slot` and `Into`.
/// - `Leftover`: the column for unknown fields takes the value. The number is the index of its key in [`AvroPlan::keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldTarget {
    Skip,
    Slot(u16),
    Into(u32),
    Both(u16, u32),
    Leftover(u32),
}

/// A value from which columns take parts. A record has the type and the target of each field, in the order of the schema. A map
/// has the type of its values, and the targets of the keys that paths name. A union has the type and the target of each branch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PlannedValue {
    Record(Vec<(NodeId, FieldTarget)>),
    Map(NodeId, Vec<(Box<[u8]>, FieldTarget)>),
    Union(Vec<(NodeId, FieldTarget)>),
}

/// The plan for values of one writer's schema. `root` says how to treat the value itself. `places` has the plans for the values
/// from which columns take parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AvroPlan {
    pub(super) places: Vec<PlannedValue>,
    pub(super) root: FieldTarget,
    /// The name of the schema's first field that no column takes, if records with such fields are rejected.
    pub(super) refused: Option<String>,
    /// The keys of the fields that go to the leftovers, each as JSON text with its colon: `"name":`.
    pub(super) keys: Vec<Box<[u8]>>,
    /// Slots to copy after decoding, as (from, to). If paths name a field both by its name and by an alias, the field is decoded
    /// into only one slot.
    pub(super) copies: Vec<(u16, u16)>,
}

impl AvroPlan {
    /// Looks up each path in the schema. The slot of a path that the schema lacks stays missing. `base` is the path of the
    /// object that holds the record's fields.
    pub(super) fn new(schema: &AvroSchema, paths: &[Path], leftovers: Leftovers, base: &[String]) -> Self {
        let mut this =
            Self { places: Vec::new(), root: FieldTarget::Skip, refused: None, keys: Vec::new(), copies: Vec::new() };
        let wanted: Vec<(u16, &[String])> = (0_u16..).zip(paths).map(|(slot, path)| (slot, path.as_slice())).collect();
        this.root = this.target(schema, schema.root, &wanted, Some((leftovers, base)), 0);
        this
    }

    /// Returns how to treat a value of the type `node`. `leftovers` is set if the value is the object that holds the record's
    /// fields, or contains that object.
    fn target(
        &mut self,
        schema: &AvroSchema,
        node: NodeId,
        wanted: &[(u16, &[String])],
        leftovers: Rest<'_>,
        depth: usize,
    ) -> FieldTarget {
        let mut wholes = wanted.iter().filter(|(_, rest)| rest.is_empty()).map(|(slot, _)| *slot);
        let whole = wholes.next();
        if let Some(from) = whole {
            self.copies.extend(wholes.map(|to| (from, to)));
        }
        let inner: Vec<(u16, &[String])> = wanted.iter().filter(|(_, rest)| !rest.is_empty()).copied().collect();
        // Avro forbids a union directly in a union. The depth is limited in case a schema has one anyway.
        let place = if (inner.is_empty() && leftovers.is_none()) || depth > crate::schema::MAX_DEPTH as usize {
            None
        } else {
            self.place(schema, node, wanted, &inner, leftovers, depth)
        };
        match (whole, place) {
            (None, None) => FieldTarget::Skip,
            (Some(slot), None) => FieldTarget::Slot(slot),
            // The plan of each branch of a union fills the slot, so the union itself doesn't.
            (Some(slot), Some(place)) if !matches!(schema.node(node), AvroNode::Union(_)) => {
                FieldTarget::Both(slot, place)
            }
            (_, Some(place)) => FieldTarget::Into(place),
        }
    }

    /// Plans a record, a map or a union from which columns take parts. Returns its index in `places`; `None` for other types.
    fn place(
        &mut self,
        schema: &AvroSchema,
        node: NodeId,
        wanted: &[(u16, &[String])],
        inner: &[(u16, &[String])],
        leftovers: Rest<'_>,
        depth: usize,
    ) -> Option<u32> {
        let place = match schema.node(node) {
            AvroNode::Record { fields, .. } => {
                let targets = fields.iter().map(|field| {
                    let below: Vec<_> = inner
                        .iter()
                        .filter(|(_, rest)| is_meant(fields, field, &rest[0]))
                        .map(|(slot, rest)| (*slot, &rest[1..]))
                        .collect();
                    let target = match leftovers {
                        Some((leftovers, [first, rest @ ..])) => {
                            let inside = (field.name == *first).then_some((leftovers, rest));
                            self.target(schema, field.node, &below, inside, depth + 1)
                        }
                        Some((leftovers, [])) if below.is_empty() => self.leftover(field, leftovers),
                        _ => self.target(schema, field.node, &below, None, depth + 1),
                    };
                    (field.node, target)
                });
                PlannedValue::Record(targets.collect())
            }
            AvroNode::Map(values) => {
                let mut keys: Vec<&String> = inner.iter().map(|(_, rest)| &rest[0]).collect();
                keys.sort_unstable();
                keys.dedup();
                let targets = keys.into_iter().map(|key| {
                    let below: Vec<_> = inner
                        .iter()
                        .filter(|(_, rest)| rest[0] == *key)
                        .map(|(slot, rest)| (*slot, &rest[1..]))
                        .collect();
                    (key.as_bytes().into(), self.target(schema, *values, &below, None, depth + 1))
                });
                PlannedValue::Map(*values, targets.collect())
            }
            AvroNode::Union(branches) => {
                let targets =
                    branches.iter().map(|branch| (*branch, self.target(schema, *branch, wanted, leftovers, depth + 1)));
                PlannedValue::Union(targets.collect())
            }
            _ => return None,
        };
        self.places.push(place);
        u32::try_from(self.places.len() - 1).ok()
    }

    fn leftover(&mut self, field: &AvroField, leftovers: Leftovers) -> FieldTarget {
        match leftovers {
            Leftovers::Ignore => FieldTarget::Skip,
            Leftovers::Refuse => {
                self.refused.get_or_insert_with(|| field.name.clone());
                FieldTarget::Skip
            }
            Leftovers::Collect => {
                self.keys.push(field.key.clone());
                FieldTarget::Leftover(u32::try_from(self.keys.len() - 1).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Returns whether `name` refers to `field`: it is the field's name or one of its aliases. An alias doesn't count if another
/// field has that name.
fn is_meant(fields: &[AvroField], field: &AvroField, name: &str) -> bool {
    field.name == name
        || field.aliases.iter().any(|alias| alias == name) && !fields.iter().any(|other| other.name == name)
}
