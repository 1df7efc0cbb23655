//! Plans what to do with each field of a message, from the paths that the columns need.

use crate::decode::Leftovers;
use crate::decode::Path;
use crate::schema::MAX_DEPTH;
use crate::schema::protobuf::{FieldKind, Known, MessageId, ProtoFile, ProtobufField};

/// How to treat a field of a message.
/// - `Slot`: a column takes the whole field. The number is the column's slot.
/// - `Into`: columns take parts of the field, which is a message or a map. The number is the index of its [`PlannedValue`].
/// - `Both`: one column takes the whole field, and others take parts of it. The numbers are those of `Slot` and `Into`.
/// - `Leftover`: the column for unknown fields takes the field.
/// - `Refuse`: the record is rejected as `unknown_field`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldTarget {
    Skip,
    Slot(u16),
    Into(u32),
    Both(u16, u32),
    Leftover,
    Refuse,
}

/// A message or a map from which columns take parts. For a message, `targets` has the target of each field. For a map, `message`
/// is the type of its entries, `targets` is empty, and `keys` has the target of each key that a path names. `defaults` has the
/// slots that get a default if their field is absent, each with the field's index. `slots` has all slots that this value and the
/// values inside it fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedValue {
    pub(super) message: MessageId,
    pub(super) targets: Vec<FieldTarget>,
    pub(super) keys: Vec<(Box<[u8]>, FieldTarget)>,
    pub(super) defaults: Vec<(u16, u16)>,
    pub(super) slots: Vec<u16>,
}

/// The plan for records of one message type. `places` has one entry for each message or map from which columns take parts; the
/// last entry is for the record itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProtobufPlan {
    pub(super) places: Vec<PlannedValue>,
    /// Whether records with fields that the schema lacks are rejected.
    pub(super) refuses: bool,
    /// Slots to copy after decoding, as (from, to). If paths name a field both by its name and by its JSON name, the field is
    /// decoded into only one slot.
    pub(super) copies: Vec<(u16, u16)>,
    /// The slot of the whole message; `None` if no column takes the whole message.
    pub(super) whole: Option<u16>,
}

impl ProtobufPlan {
    /// Looks up each path in the message. The slot of a path that the message lacks stays missing. `base` is the path of the
    /// message that holds the record's fields; it is empty if `message` itself holds them.
    pub(super) fn new(
        file: &ProtoFile,
        message: MessageId,
        paths: &[Path],
        leftovers: Leftovers,
        base: &[String],
    ) -> Self {
        let slots = || (0_u16..).zip(paths).map(|(slot, path)| (slot, path.as_slice()));
        let mut this = Self {
            places: Vec::new(),
            refuses: leftovers == Leftovers::Refuse,
            copies: Vec::new(),
            whole: slots().find(|(_, path)| path.is_empty()).map(|(slot, _)| slot),
        };
        let wanted: Vec<(u16, &[String])> = slots().filter(|(_, path)| !path.is_empty()).collect();
        let other = match leftovers {
            Leftovers::Ignore => FieldTarget::Skip,
            Leftovers::Refuse => FieldTarget::Refuse,
            Leftovers::Collect => FieldTarget::Leftover,
        };
        this.place(file, message, &wanted, (other, base), 0);
        this
    }

    fn place(
        &mut self,
        file: &ProtoFile,
        message: MessageId,
        wanted: &[(u16, &[String])],
        (other, base): (FieldTarget, &[String]),
        depth: u32,
    ) -> Option<u32> {
        let mut place =
            PlannedValue { message, targets: Vec::new(), keys: Vec::new(), defaults: Vec::new(), slots: Vec::new() };
        place.slots = wanted.iter().map(|(slot, _)| *slot).collect();
        let fields = &file.message(message).fields;
        for (at, field) in (0_u16..).zip(fields) {
            let below: Vec<_> = wanted
                .iter()
                .filter(|(_, rest)| is_meant(fields, field, &rest[0]))
                .map(|(slot, rest)| (*slot, &rest[1..]))
                .collect();
            let target = match base {
                [] if below.is_empty() => other,
                [first, rest @ ..] if field.name == *first => self.target(file, field, &below, (other, rest), depth),
                _ => self.target(file, field, &below, (FieldTarget::Skip, &[]), depth),
            };
            if let (FieldTarget::Slot(slot) | FieldTarget::Both(slot, _), true) = (target, !field.presence) {
                place.defaults.push((slot, at));
            }
            place.targets.push(target);
        }
        self.places.push(place);
        u32::try_from(self.places.len() - 1).ok()
    }

    fn target(
        &mut self,
        file: &ProtoFile,
        field: &ProtobufField,
        wanted: &[(u16, &[String])],
        rest: (FieldTarget, &[String]),
        depth: u32,
    ) -> FieldTarget {
        let mut wholes = wanted.iter().filter(|(_, rest)| rest.is_empty()).map(|(slot, _)| *slot);
        let whole = wholes.next();
        if let Some(from) = whole {
            self.copies.extend(wholes.map(|to| (from, to)));
        }
        let inner: Vec<(u16, &[String])> = wanted.iter().filter(|(_, rest)| !rest.is_empty()).copied().collect();
        let place = match field.kind {
            _ if inner.is_empty() || depth >= MAX_DEPTH => None,
            FieldKind::Message(entry) if field.map => self.map(file, entry, &inner, depth),
            FieldKind::Message(message) if !field.repeated && file.message(message).known == Known::No => {
                self.place(file, message, &inner, rest, depth + 1)
            }
            _ => None,
        };
        match (whole, place) {
            (None, None) => FieldTarget::Skip,
            (Some(slot), None) => FieldTarget::Slot(slot),
            (None, Some(place)) => FieldTarget::Into(place),
            (Some(slot), Some(place)) => FieldTarget::Both(slot, place),
        }
    }

    fn map(&mut self, file: &ProtoFile, entry: MessageId, inner: &[(u16, &[String])], depth: u32) -> Option<u32> {
        let value = file.message(entry).fields.iter().find(|field| field.number == 2)?;
        let mut names: Vec<&String> = inner.iter().map(|(_, rest)| &rest[0]).collect();
        names.sort_unstable();
        names.dedup();
        let mut keys: Vec<(Box<[u8]>, FieldTarget)> = Vec::new();
        for name in names {
            let below: Vec<_> =
                inner.iter().filter(|(_, rest)| rest[0] == *name).map(|(slot, rest)| (*slot, &rest[1..])).collect();
            keys.push((name.as_bytes().into(), self.target(file, value, &below, (FieldTarget::Skip, &[]), depth + 1)));
        }
        let slots = inner.iter().map(|(slot, _)| *slot).collect();
        self.places.push(PlannedValue { message: entry, targets: Vec::new(), keys, defaults: Vec::new(), slots });
        u32::try_from(self.places.len() - 1).ok()
    }
}

/// Returns whether a name refers to `field`: it is the field's own name, or its JSON name if no other field has that name.
fn is_meant(fields: &[ProtobufField], field: &ProtobufField, name: &str) -> bool {
    field.name == name || field.json_name == name && !fields.iter().any(|other| other.name == name)
}
