//! From a message and the planned paths to what is done with each field.

use crate::decode::Leftovers;
use crate::decode::Path;
use crate::schema::MAX_DEPTH;
use crate::schema::protobuf::{Field, FieldKind, Known, MessageId, ProtoFile};

/// The action for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Skip,
    /// A column takes it.
    Slot(u16),
    /// Columns look into it: a message's place or a map's.
    Into(u32),
    /// Both.
    Both(u16, u32),
    /// It goes to the leftovers.
    Leftover,
    /// The record is refused.
    Refuse,
}

/// A message or a map that columns look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) message: MessageId,
    /// For each field of the message.
    pub(super) targets: Vec<Target>,
    /// For a map: the targets of some keys.
    pub(super) keys: Vec<(Box<[u8]>, Target)>,
    /// Slots that have a default where their field isn't there, with the field's place.
    pub(super) defaults: Vec<(u16, u16)>,
    /// All slots that the place or one below it fills.
    pub(super) slots: Vec<u16>,
}

/// The way through values of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The last one is the record's.
    pub(super) places: Vec<Place>,
    /// Whether fields that the schema doesn't have are refused.
    pub(super) refuses: bool,
    /// A field that paths name in two ways: from one slot to another.
    pub(super) copies: Vec<(u16, u16)>,
    /// The slot of the whole message.
    pub(super) whole: Option<u16>,
}

impl Plan {
    /// Looks for each path in the message; one that isn't there stays missing. The record's own fields lie at `base`.
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
            Leftovers::Ignore => Target::Skip,
            Leftovers::Refuse => Target::Refuse,
            Leftovers::Collect => Target::Leftover,
        };
        this.place(file, message, &wanted, (other, base), 0);
        this
    }

    fn place(
        &mut self,
        file: &ProtoFile,
        message: MessageId,
        wanted: &[(u16, &[String])],
        (other, base): (Target, &[String]),
        depth: u32,
    ) -> Option<u32> {
        let mut place =
            Place { message, targets: Vec::new(), keys: Vec::new(), defaults: Vec::new(), slots: Vec::new() };
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
                _ => self.target(file, field, &below, (Target::Skip, &[]), depth),
            };
            if let (Target::Slot(slot) | Target::Both(slot, _), true) = (target, !field.presence) {
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
        field: &Field,
        wanted: &[(u16, &[String])],
        rest: (Target, &[String]),
        depth: u32,
    ) -> Target {
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
            (None, None) => Target::Skip,
            (Some(slot), None) => Target::Slot(slot),
            (None, Some(place)) => Target::Into(place),
            (Some(slot), Some(place)) => Target::Both(slot, place),
        }
    }

    /// A map whose keys are names of paths.
    fn map(&mut self, file: &ProtoFile, entry: MessageId, inner: &[(u16, &[String])], depth: u32) -> Option<u32> {
        let value = file.message(entry).fields.iter().find(|field| field.number == 2)?;
        let mut names: Vec<&String> = inner.iter().map(|(_, rest)| &rest[0]).collect();
        names.sort_unstable();
        names.dedup();
        let mut keys: Vec<(Box<[u8]>, Target)> = Vec::new();
        for name in names {
            let below: Vec<_> =
                inner.iter().filter(|(_, rest)| rest[0] == *name).map(|(slot, rest)| (*slot, &rest[1..])).collect();
            keys.push((name.as_bytes().into(), self.target(file, value, &below, (Target::Skip, &[]), depth + 1)));
        }
        let slots = inner.iter().map(|(slot, _)| *slot).collect();
        self.places.push(Place { message: entry, targets: Vec::new(), keys, defaults: Vec::new(), slots });
        u32::try_from(self.places.len() - 1).ok()
    }
}

/// By its own name, or by the one that JSON has for it, unless another field has that for its own.
fn is_meant(fields: &[Field], field: &Field, name: &str) -> bool {
    field.name == name || field.json_name == name && !fields.iter().any(|other| other.name == name)
}
