//! Records wrapped as `{schema, payload}`, as Kafka Connect's JSON converter writes them.
//!
//! The payload's fields are the fields of the record. The schema may give a field a logical type of Kafka Connect or Debezium.
//! For example, the number 20484 is a date if its type is `org.apache.kafka.connect.data.Date`.

use serde_json::Value as Json;

use crate::base64;
use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::json::{JsonDecoder, byte_order_mark};
use crate::json::string;
use crate::schema::logical::Logical;
use crate::value::DecodeError;
use crate::value::{Flags, Kind, Reason, Slot, Value, shown};

/// How many schemas are cached, so that they aren't parsed for each record. Each topic of a pipeline can have its own schema.
const REMEMBERED: usize = 16;

/// A cached schema: its bytes, by which it is recognized, and its logical types, each with the slot of its field.
#[derive(Debug, Default)]
struct Known {
    bytes: Vec<u8>,
    logicals: Vec<(u16, Logical)>,
}

#[derive(Debug)]
pub(crate) struct ConnectDecoder {
    json: JsonDecoder,
    paths: Vec<Path>,
    /// The slot for the whole payload, if a column takes it. The payload may then be any value except null, not only an object.
    whole: Option<usize>,
    known: Vec<Known>,
    /// The index in `known` of the schema that was used last.
    last: usize,
    /// Reads the structs of Debezium's `VariableScaleDecimal` into `parts`.
    variable: JsonDecoder,
    parts: Fields,
}

impl ConnectDecoder {
    /// Makes a decoder that finds the fields at `paths`, which are relative to the payload. `base` is the path in the payload to
    /// the object that holds the record's fields: `after` in Debezium's envelope, else empty.
    pub(crate) fn new(paths: &[Path], leftovers: Leftovers, base: &[String]) -> Self {
        let within =
            |path: &[String]| -> Path { std::iter::once("payload".to_owned()).chain(path.iter().cloned()).collect() };
        let whole = paths.iter().position(Vec::is_empty);
        // The path of the payload itself is added below. It must occur only once, because the JSON decoder has one slot per key.
        let mut wrapped: Vec<Path> =
            paths.iter().map(|path| if path.is_empty() { Path::new() } else { within(path) }).collect();
        wrapped.push(vec!["payload".to_owned()]);
        wrapped.push(vec!["schema".to_owned()]);
        let json = JsonDecoder::within(&wrapped, leftovers, &within(base));
        let parts = ["scale", "value"].map(|name| vec![name.to_owned()]);
        Self {
            json,
            paths: paths.to_vec(),
            whole,
            known: Vec::new(),
            last: 0,
            variable: JsonDecoder::new(&parts, Leftovers::Ignore),
            parts: Fields::default(),
        }
    }

    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        self.decode_at(payload, byte_order_mark(payload), fields)
    }

    pub(crate) fn decode_at(&mut self, payload: &[u8], start: usize, fields: &mut Fields) -> Result<(), DecodeError> {
        self.json.object(payload, start, fields)?;
        let schema = fields.slots.pop().map_or(Slot::MISSING, |slot| slot);
        let inner = fields.slots.pop().map_or(Slot::MISSING, |slot| slot);
        match inner.kind {
            Kind::Object => {}
            Kind::Null => return Err(DecodeError::new(Reason::Tombstone, "the record's `payload` is null")),
            Kind::Missing => {
                let detail = "the value has no `payload`; wrapped records are {\"schema\":…,\"payload\":…}";
                return Err(DecodeError::new(Reason::InvalidFormat, detail));
            }
            _ if self.whole.is_some() => {}
            _ => {
                let detail = format!("the `payload` {} is not a JSON object", shown(inner.of(payload).raw));
                return Err(DecodeError::new(Reason::NotAnObject, detail));
            }
        }
        if let Some(place) = self.whole.and_then(|whole| fields.slots.get_mut(whole)) {
            *place = inner;
        }
        if schema.kind != Kind::Object {
            return Ok(()); // the schema may be left out or null: then values mean what JSON says
        }
        self.know(schema.of(payload).raw);
        let Self { known, last, variable, parts, .. } = self;
        for (slot, logical) in known.get(*last).map_or(&[][..], |known| &known.logicals) {
            // The slots of JSON always point into the payload.
            let Some(place) = fields.slots.get(usize::from(*slot)).copied() else { continue };
            let meant = match logical {
                Logical::VariableDecimal if place.kind == Kind::Object => {
                    variable_decimal(place, payload, variable, parts, fields)
                }
                logical => apply(*logical, &place.of(payload), fields),
            };
            if let (Some(meant), Some(place)) = (meant, fields.slots.get_mut(usize::from(*slot))) {
                *place = meant;
            }
        }
        Ok(())
    }

    /// Sets `last` to the index of this schema in `known`. Parses the schema if it isn't cached.
    fn know(&mut self, schema: &[u8]) {
        if self.known.get(self.last).is_some_and(|known| known.bytes == schema) {
            return;
        }
        if let Some(at) = self.known.iter().position(|known| known.bytes == schema) {
            self.last = at;
            return;
        }
        let json: Json = serde_json::from_slice(schema).unwrap_or(Json::Null);
        let logicals = (0_u16..).zip(&self.paths).filter_map(|(slot, path)| Some((slot, logical(&json, path)?)));
        let known = Known { bytes: schema.to_vec(), logicals: logicals.collect() };
        if self.known.len() < REMEMBERED {
            self.last = self.known.len();
            self.known.push(known);
        } else {
            self.last = (self.last + 1) % REMEMBERED;
            self.known[self.last] = known;
        }
    }
}

fn logical(schema: &Json, path: &Path) -> Option<Logical> {
    let mut at = schema;
    for name in path {
        at = at
            .get("fields")?
            .as_array()?
            .iter()
            .find(|field| field.get("field").and_then(Json::as_str) == Some(name))?;
    }
    let scale = at.get("parameters").and_then(|parameters| parameters.get("scale"));
    let scale = scale.and_then(|scale| scale.as_str().map_or_else(|| scale.as_i64(), |text| text.parse().ok()));
    Logical::of(at.get("name")?.as_str()?, scale.and_then(|scale| i32::try_from(scale).ok()))
}

/// Returns a JSON number as an integer. `None` for other values, for numbers with a fraction or an exponent, and for numbers that
/// `i64` can't hold.
fn whole(value: &Value<'_>) -> Option<i64> {
    let plain = value.kind == Kind::Number && value.exponent == 0 && !value.flags.has(Flags::INEXACT);
    let number = i128::from(value.mantissa);
    i64::try_from(if value.flags.has(Flags::NEGATIVE) { -number } else { number }).ok().filter(|_| plain)
}

/// Converts a value as its logical type requires. Returns `None` if the value doesn't match the type. The caller then leaves the
/// value unchanged, and the column accepts or rejects it.
fn apply(logical: Logical, value: &Value<'_>, fields: &mut Fields) -> Option<Slot> {
    match logical {
        // If the converter writes decimals as numbers, the value is left as it is.
        Logical::Decimal(scale) => decimal(value.as_text()?, scale, fields),
        Logical::Json | Logical::ZonedTimestamp => {
            let text = value.as_text()?;
            let start = fields.made.len();
            string::unescape(text, &mut fields.made);
            logical.made_text(start, fields)
        }
        _ => logical.number(whole(value)?, fields),
    }
}

fn decimal(text: &[u8], scale: i32, fields: &mut Fields) -> Option<Slot> {
    let start = fields.made.len();
    base64::decode(text, &mut fields.made)?;
    Some(Slot { exponent: scale.saturating_neg(), ..fields.made_slot(Kind::Decimal, Flags::BINARY, start) })
}

/// Decodes a decimal number from an object with a scale and an unscaled number in base64.
fn variable_decimal(
    place: Slot,
    payload: &[u8],
    reader: &mut JsonDecoder,
    parts: &mut Fields,
    fields: &mut Fields,
) -> Option<Slot> {
    let (start, end) = (place.start as usize, (place.start + place.len) as usize);
    let inside = payload.get(..end)?;
    reader.object(inside, start, parts).ok()?;
    let scale = i32::try_from(whole(&parts.value(0, inside))?).ok()?;
    decimal(parts.value(1, inside).as_text()?, scale, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Vec<String>, DecodeError> {
        let paths = ["day", "at", "price", "inner.clock"].map(|path| path.split('.').map(str::to_owned).collect());
        let mut decoder = ConnectDecoder::new(&paths, Leftovers::Ignore, &[]);
        let mut fields = Fields::default();
        for _again in 0..2 {
            decoder.decode(text.as_bytes(), &mut fields)?;
        }
        Ok((0..4)
            .map(|slot| {
                let mut out = Vec::new();
                crate::render::text(&fields.value(slot, text.as_bytes()), &mut out);
                String::from_utf8(out).expect("text")
            })
            .collect())
    }

    const SCHEMA: &str = r#"{"type":"struct","fields":[
        {"type":"int32","name":"org.apache.kafka.connect.data.Date","field":"day"},
        {"type":"int64","name":"org.apache.kafka.connect.data.Timestamp","field":"at"},
        {"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"},"field":"price"},
        {"type":"struct","field":"inner","fields":[
            {"type":"int32","name":"org.apache.kafka.connect.data.Time","field":"clock"}]}]}"#;

    #[test]
    fn logical_types_give_numbers_their_meaning() {
        let payload = r#"{"day":20484,"at":1769860800123,"price":"MDk=","inner":{"clock":1500}}"#;
        let wrapped = format!(r#"{{"schema":{SCHEMA},"payload":{payload}}}"#);
        let values = ["2026-01-31", "2026-01-31T12:00:00.123Z", "123.45", "00:00:01.5"].map(str::to_owned);
        assert_eq!(decode(&wrapped), Ok(values.to_vec()));
        // The order of schema and payload doesn't matter.
        assert_eq!(decode(&format!(r#"{{"payload":{payload},"schema":{SCHEMA}}}"#)), Ok(values.to_vec()));
    }

    #[test]
    fn without_a_schema_values_are_as_json_has_them_and_without_a_payload_there_is_no_record() {
        assert_eq!(
            decode(r#"{"schema":null,"payload":{"day":1,"at":2}}"#).map(|values| values[1].clone()),
            Ok("2".into())
        );
        let reason = |text| decode(text).expect_err("a refusal").reason;
        assert_eq!(reason(r#"{"a":1}"#), Reason::InvalidFormat);
        assert_eq!(reason(r#"{"schema":null,"payload":null}"#), Reason::Tombstone);
        assert_eq!(reason(r#"{"schema":null,"payload":[1]}"#), Reason::NotAnObject);
        assert_eq!(reason("[]"), Reason::NotAnObject);
    }
}
