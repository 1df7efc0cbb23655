//! The messages of a Protobuf file, by index, as the decoder needs them.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind as ProtoKind, MessageDescriptor};

use crate::json::string;

/// The index of a message in [`ProtoFile::messages`].
pub(crate) type MessageId = u32;

/// Far more than real schemas have.
const MAX_MESSAGES: usize = 100_000;
/// The most fields in a message. The decoder keeps a bit for each field.
pub(crate) const MAX_FIELDS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Text,
    Bytes,
    Message(MessageId),
    Enum(u32),
}

/// The well-known message type that a message is, if any. The decoder reads such a message as a single value, instead of as
/// fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    No,
    Timestamp,
    Duration,
    /// A message with one scalar field, such as `google.protobuf.Int32Value`.
    Wrapper,
    /// `confluent.type.Decimal`
    Decimal,
    /// Debezium's `VariableScaleDecimal`
    VariableDecimal,
    /// `google.type.Date`
    Date,
    /// `google.type.TimeOfDay`
    TimeOfDay,
    /// `google.type.LatLng`
    LatLng,
    Struct,
    Value,
    ListValue,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProtobufField {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// Paths may use this name too.
    pub(crate) json_name: String,
    /// The name as a key of JSON: `"name":`.
    pub(crate) key: Box<[u8]>,
    pub(crate) kind: FieldKind,
    pub(crate) repeated: bool,
    pub(crate) map: bool,
    /// Whether an absent field is missing. Otherwise, an absent field has the default value of its type.
    pub(crate) presence: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<ProtobufField>,
    pub(crate) known: Known,
    /// Finds fields with numbers below 256. For example, element 3 is 1 plus the index of the field with number 3, or 0 if there
    /// is no such field.
    dense: Vec<u16>,
}

impl Message {
    #[inline]
    pub(crate) fn find(&self, number: u32) -> Option<usize> {
        match self.dense.get(number as usize) {
            Some(0) => None,
            Some(place) => Some(usize::from(*place) - 1),
            None => self.fields.iter().position(|field| field.number == number),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Enum {
    /// The numbers and their names, sorted by number.
    values: Vec<(i32, Box<str>)>,
    /// The name of the value that an absent field has.
    pub(crate) default: Box<str>,
}

impl Enum {
    pub(crate) fn name(&self, number: i32) -> Option<&str> {
        let at = self.values.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.values.get(at).map(|(_, name)| &**name)
    }
}

/// A compiled file, with the messages and enums of all files that it imports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProtoFile {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    /// The ids of all messages by their names with the package.
    names: BTreeMap<String, MessageId>,
    /// The file's own messages by the indexes with which a value names its message. `[1, 0]` is the first message inside of the
    /// file's second message. A file has few messages, so comparisons cost less than a hash.
    indexes: BTreeMap<Vec<i64>, MessageId>,
    /// The ids of the file's outermost messages by their names without the package.
    outermost: BTreeMap<String, MessageId>,
}

impl ProtoFile {
    /// Converts a file of the pool, together with all messages and enums of the pool.
    ///
    /// # Errors
    /// If the pool doesn't have the file, has too many messages, or has a message with too many fields or with a field of an
    /// unknown type.
    pub(crate) fn new(pool: &DescriptorPool, file: &str) -> Result<Self, String> {
        let main = pool.get_file_by_name(file).ok_or_else(|| format!("there is no file {file:?} in it"))?;
        let all: Vec<MessageDescriptor> = pool.all_messages().collect();
        if all.len() > MAX_MESSAGES {
            return Err(format!("it has more than {MAX_MESSAGES} messages"));
        }
        let names: BTreeMap<String, MessageId> =
            (0..).zip(&all).map(|(id, message)| (message.full_name().to_owned(), id)).collect();
        let mut enums = Vec::new();
        let mut enum_ids = BTreeMap::new();
        for descriptor in pool.all_enums() {
            enum_ids.insert(descriptor.full_name().to_owned(), u32::try_from(enums.len()).unwrap_or(u32::MAX));
            enums.push(enum_of(&descriptor));
        }
        let messages = all.iter().map(|message| message_of(message, &names, &enum_ids)).collect::<Result<_, _>>()?;
        let mut indexes = BTreeMap::new();
        for (place, message) in (0..).zip(main.messages()) {
            index(&message, vec![place], &names, &mut indexes);
        }
        let id = |message: MessageDescriptor| Some((message.name().to_owned(), *names.get(message.full_name())?));
        let outermost = main.messages().filter_map(id).collect();
        Ok(Self { messages, enums, names, indexes, outermost })
    }

    #[inline]
    pub(crate) fn message(&self, id: MessageId) -> &Message {
        &self.messages[id as usize]
    }

    #[inline]
    pub(crate) fn enumeration(&self, id: u32) -> &Enum {
        &self.enums[id as usize]
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<MessageId> {
        self.names.get(name).copied()
    }

    pub(crate) fn by_indexes(&self, indexes: &[i64]) -> Option<MessageId> {
        self.indexes.get(indexes).copied()
    }

    /// Returns the file's outermost message of this name. `name` doesn't include the package.
    pub(crate) fn outermost(&self, name: &str) -> Option<MessageId> {
        self.outermost.get(name).copied()
    }

    pub(crate) fn only_outermost(&self) -> Option<MessageId> {
        self.by_indexes(&[0]).filter(|_| self.outermost.len() == 1)
    }

    pub(crate) fn has_message(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(crate) fn own_messages(&self) -> Vec<&str> {
        self.indexes.values().map(|id| self.message(*id).name.as_str()).collect()
    }
}

fn index(
    message: &MessageDescriptor,
    place: Vec<i64>,
    names: &BTreeMap<String, MessageId>,
    indexes: &mut BTreeMap<Vec<i64>, MessageId>,
) {
    for (number, inner) in (0..).zip(message.child_messages().filter(|inner| !inner.is_map_entry())) {
        index(&inner, [place.as_slice(), &[number]].concat(), names, indexes);
    }
    if let Some(id) = names.get(message.full_name()) {
        indexes.insert(place, *id);
    }
}

fn enum_of(descriptor: &EnumDescriptor) -> Enum {
    let mut values: Vec<(i32, Box<str>)> = Vec::new();
    for value in descriptor.values() {
        // If two names have the same number, use the first one.
        if !values.iter().any(|(number, _)| *number == value.number()) {
            values.push((value.number(), value.name().into()));
        }
    }
    values.sort_by_key(|(number, _)| *number);
    Enum { values, default: descriptor.default_value().name().into() }
}

fn message_of(
    message: &MessageDescriptor,
    names: &BTreeMap<String, MessageId>,
    enums: &BTreeMap<String, u32>,
) -> Result<Message, String> {
    let name = message.full_name().to_owned();
    let mut fields = Vec::new();
    for field in message.fields() {
        fields.push(field_of(&field, names, enums).ok_or_else(|| format!("{} has no type", field.full_name()))?);
    }
    if fields.len() > MAX_FIELDS {
        return Err(format!("message {name} has more than {MAX_FIELDS} fields"));
    }
    let mut dense =
        vec![0; fields.iter().map(|field| field.number).filter(|n| *n < 256).max().unwrap_or(0) as usize + 1];
    for (place, field) in (1_u16..).zip(&fields) {
        if let Some(slot) = dense.get_mut(field.number as usize) {
            *slot = place;
        }
    }
    let known = match name.as_str() {
        "google.protobuf.Timestamp" => Known::Timestamp,
        "google.protobuf.Duration" => Known::Duration,
        "google.protobuf.Struct" => Known::Struct,
        "google.protobuf.Value" => Known::Value,
        "google.protobuf.ListValue" => Known::ListValue,
        "confluent.type.Decimal" => Known::Decimal,
        "google.type.Date" => Known::Date,
        "google.type.TimeOfDay" => Known::TimeOfDay,
        "google.type.LatLng" => Known::LatLng,
        "google.type.Decimal" if fields.len() == 1 => Known::Wrapper,
        // Check only the name and the fields: the converter chooses the package and the field numbers.
        _ if message.name() == "VariableScaleDecimal"
            && fields.iter().any(|field| field.name == "scale" && field.kind == FieldKind::Int32)
            && fields.iter().any(|field| field.name == "value" && field.kind == FieldKind::Bytes) =>
        {
            Known::VariableDecimal
        }
        _ if message.package_name() == "google.protobuf"
            && message.name().ends_with("Value")
            && fields.len() == 1
            && fields[0].name == "value" =>
        {
            Known::Wrapper
        }
        _ => Known::No,
    };
    Ok(Message { name, fields, known, dense })
}

fn field_of(
    field: &FieldDescriptor,
    names: &BTreeMap<String, MessageId>,
    enums: &BTreeMap<String, u32>,
) -> Option<ProtobufField> {
    let kind = match field.kind() {
        ProtoKind::Double => FieldKind::Double,
        ProtoKind::Float => FieldKind::Float,
        ProtoKind::Int32 => FieldKind::Int32,
        ProtoKind::Int64 => FieldKind::Int64,
        ProtoKind::Uint32 => FieldKind::Uint32,
        ProtoKind::Uint64 => FieldKind::Uint64,
        ProtoKind::Sint32 => FieldKind::Sint32,
        ProtoKind::Sint64 => FieldKind::Sint64,
        ProtoKind::Fixed32 => FieldKind::Fixed32,
        ProtoKind::Fixed64 => FieldKind::Fixed64,
        ProtoKind::Sfixed32 => FieldKind::Sfixed32,
        ProtoKind::Sfixed64 => FieldKind::Sfixed64,
        ProtoKind::Bool => FieldKind::Bool,
        ProtoKind::String => FieldKind::Text,
        ProtoKind::Bytes => FieldKind::Bytes,
        ProtoKind::Message(message) => FieldKind::Message(*names.get(message.full_name())?),
        ProtoKind::Enum(descriptor) => FieldKind::Enum(*enums.get(descriptor.full_name())?),
    };
    let mut key = Vec::new();
    string::quote(field.name().as_bytes(), &mut key);
    key.push(b':');
    Some(ProtobufField {
        number: field.number(),
        name: field.name().to_owned(),
        json_name: field.json_name().to_owned(),
        key: key.into(),
        kind,
        repeated: field.is_list() || field.is_map(),
        map: field.is_map(),
        presence: field.supports_presence(),
    })
}
