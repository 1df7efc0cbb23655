//! Records wrapped as `{schema, payload}`, as Kafka Connect's JSON converter writes them.
//!
//! The payload's fields are the record's. The schema says what a number or a text means, by the names of its logical types
//! (Kafka Connect's own and Debezium's); it is read again only where it differs from one of the last few.

use serde_json::Value as Json;

use crate::base64;
use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::json::JsonDecoder;
use crate::value::DecodeFault;
use crate::value::{Flags, Kind, Reason, Slot, shown};

/// Schemas that are remembered: topics of a pipeline may have one each.
const REMEMBERED: usize = 16;

/// What a number or text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logical {
    /// Days since 1970.
    Date,
    /// Since midnight; so many of these are a microsecond, or the other way round below 0.
    Time(i64),
    Timestamp(i64),
    /// Base64 of an unscaled number; the scale.
    Decimal(i32),
}

/// A schema's bytes, and what it says of which slot.
#[derive(Debug, Default)]
struct Known {
    bytes: Vec<u8>,
    logicals: Vec<(u16, Logical)>,
}

/// Finds the planned fields in the payloads of wrapped records.
#[derive(Debug)]
pub(crate) struct ConnectDecoder {
    json: JsonDecoder,
    paths: Vec<Path>,
    known: Vec<Known>,
    /// The schema that came last.
    last: usize,
}

impl ConnectDecoder {
    pub(crate) fn new(paths: &[Path], leftovers: Leftovers) -> Self {
        let inner = |path: &Path| std::iter::once("payload".to_owned()).chain(path.iter().cloned()).collect();
        let mut wrapped: Vec<Path> = paths.iter().map(inner).collect();
        wrapped.push(vec!["payload".to_owned()]);
        wrapped.push(vec!["schema".to_owned()]);
        let json = JsonDecoder::within(&wrapped, leftovers, "payload");
        Self { json, paths: paths.to_vec(), known: Vec::new(), last: 0 }
    }

    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeFault> {
        self.json.decode_object(payload, fields)?;
        let schema = fields.slots.pop().map_or(Slot::MISSING, |slot| slot);
        let inner = fields.slots.pop().map_or(Slot::MISSING, |slot| slot);
        match inner.kind {
            Kind::Object => {}
            Kind::Null => return Err(DecodeFault::new(Reason::Tombstone, "the record's `payload` is null")),
            Kind::Missing => {
                let detail = "the value has no `payload`; wrapped records are {\"schema\":…,\"payload\":…}";
                return Err(DecodeFault::new(Reason::InvalidFormat, detail));
            }
            _ => {
                let detail = format!("the `payload` {} is not a JSON object", shown(inner.of(payload).raw));
                return Err(DecodeFault::new(Reason::NotAnObject, detail));
            }
        }
        if schema.kind != Kind::Object {
            return Ok(()); // converters may leave it out or write null: then values are as JSON has them
        }
        self.know(schema.of(payload).raw);
        let Some(known) = self.known.get(self.last) else { return Ok(()) };
        for (slot, logical) in &known.logicals {
            apply(*slot, *logical, payload, fields);
        }
        Ok(())
    }

    /// Makes `last` the place of this schema.
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

/// What the schema says of the field at a path.
fn logical(schema: &Json, path: &Path) -> Option<Logical> {
    let mut at = schema;
    for name in path {
        at = at
            .get("fields")?
            .as_array()?
            .iter()
            .find(|field| field.get("field").and_then(Json::as_str) == Some(name))?;
    }
    Some(match at.get("name")?.as_str()? {
        "org.apache.kafka.connect.data.Date" | "io.debezium.time.Date" => Logical::Date,
        "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" => Logical::Time(1_000),
        "io.debezium.time.MicroTime" => Logical::Time(1),
        "io.debezium.time.NanoTime" => Logical::Time(-1_000),
        "org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp" => Logical::Timestamp(1_000),
        "io.debezium.time.MicroTimestamp" => Logical::Timestamp(1),
        "io.debezium.time.NanoTimestamp" => Logical::Timestamp(-1_000),
        "org.apache.kafka.connect.data.Decimal" => {
            let scale = at.get("parameters")?.get("scale")?;
            let scale = scale.as_str().map_or_else(|| scale.as_i64(), |text| text.parse().ok())?;
            Logical::Decimal(i32::try_from(scale).ok()?)
        }
        _ => return None,
    })
}

/// Gives a slot its meaning. What isn't as the schema says stays as it is, and its column judges it.
fn apply(slot: u16, logical: Logical, payload: &[u8], fields: &mut Fields) {
    // JSON's slots all point into the payload.
    let Some(value) = fields.slots.get(usize::from(slot)).map(|slot| slot.of(payload)) else { return };
    let whole = || {
        let plain = value.kind == Kind::Number && value.exponent == 0 && !value.flags.has(Flags::INEXACT);
        let number = i64::try_from(value.mantissa).ok().filter(|_| plain)?;
        Some(if value.flags.has(Flags::NEGATIVE) { -number } else { number })
    };
    let micros = |unit: i64| whole().and_then(|number| in_micros(number, unit));
    let made = match logical {
        Logical::Date => whole().map(|days| Slot::number(Kind::Day, days)),
        Logical::Time(unit) => micros(unit).map(|micros| Slot::number(Kind::Clock, micros)),
        Logical::Timestamp(unit) => micros(unit).map(|micros| Slot::number(Kind::Instant, micros)),
        Logical::Decimal(scale) => {
            let Some(text) = value.as_text() else { return }; // a number, where the converter writes decimals so
            let start = fields.made.len();
            base64::decode(text, &mut fields.made).map(|()| Slot {
                exponent: scale.saturating_neg(),
                ..fields.made_slot(Kind::Decimal, Flags::BINARY, start)
            })
        }
    };
    if let (Some(made), Some(place)) = (made, fields.slots.get_mut(usize::from(slot))) {
        *place = made;
    }
}

/// A count of units as microseconds: `unit` microseconds each, or for a negative one so many to a microsecond, where what is
/// finer is rounded half to even.
pub(crate) fn in_micros(number: i64, unit: i64) -> Option<i64> {
    if unit > 0 {
        return number.checked_mul(unit);
    }
    let divisor = unit.checked_neg()?;
    let (whole, rest) = (number.div_euclid(divisor), number.rem_euclid(divisor));
    let up = rest * 2 > divisor || rest * 2 == divisor && whole % 2 != 0;
    Some(if up { whole + 1 } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Vec<String>, DecodeFault> {
        let paths = ["day", "at", "price", "inner.clock"].map(|path| path.split('.').map(str::to_owned).collect());
        let mut decoder = ConnectDecoder::new(&paths, Leftovers::Ignore);
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
        // The order of the two doesn't matter.
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

    #[test]
    fn finer_times_are_rounded_half_to_even() {
        let rounded = [1_500, 2_500, -1_500, -500, 999, -1].map(|nanos| in_micros(nanos, -1_000));
        assert_eq!(rounded, [Some(2), Some(2), Some(-2), Some(0), Some(1), Some(0)]);
    }
}
