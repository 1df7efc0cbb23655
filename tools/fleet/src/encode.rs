//! Encodes readings as JSON, several million per second on one core.
//!
//! The code is written by hand, and the caller reuses the buffer. So nothing is allocated once the buffer is large enough for a
//! record.

use std::str::FromStr;

use crate::digits::{date, decimal, integer, padded};
use crate::{ParseError, Reading};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// All 13 fields, about 225 bytes.
    #[default]
    Telemetry,
    /// Seven fields, about 134 bytes, for the drain benchmark. In this form `trip_id` is [`Reading::index`], the number of the
    /// reading in the fleet. If no record is lost or repeated, three records have the values 0, 1 and 2 of `trip_id`.
    Compact,
}

impl FromStr for Format {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "telemetry" => Ok(Self::Telemetry),
            "compact" => Ok(Self::Compact),
            _ => Err(ParseError::new(text, "a format: `telemetry` or `compact`")),
        }
    }
}

/// Writes readings in one format. It keeps the text of the last date and time, because consecutive readings usually have the same
/// second.
#[derive(Debug, Clone)]
pub struct Encoder {
    format: Format,
    second: i64,
    /// The date and time of `second`, up to and including the decimal point.
    date: [u8; 20],
}

impl Encoder {
    pub fn new(format: Format) -> Self {
        Self { format, second: 0, date: *b"1970-01-01T00:00:00." }
    }

    /// Appends the record to `out`, without a line break at its end.
    pub fn write(&mut self, reading: &Reading, out: &mut Vec<u8>) {
        match self.format {
            Format::Telemetry => self.telemetry(reading, out),
            Format::Compact => self.compact(reading, out),
        }
    }

    fn telemetry(&mut self, reading: &Reading, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"vehicle_id\":");
        integer(out, reading.vehicle_id.into());
        out.extend_from_slice(b",\"driver_id\":");
        integer(out, reading.driver_id.into());
        out.extend_from_slice(b",\"trip_id\":");
        integer(out, reading.trip_id);
        out.extend_from_slice(b",\"region\":\"");
        out.extend_from_slice(reading.region.as_str().as_bytes());
        out.extend_from_slice(b"\",\"ts\":\"");
        self.timestamp(out, reading.ts_ms);
        out.extend_from_slice(b"\",\"lat\":");
        decimal(out, reading.lat_e6, 6);
        out.extend_from_slice(b",\"lon\":");
        decimal(out, reading.lon_e6, 6);
        out.extend_from_slice(b",\"speed_kmh\":");
        decimal(out, reading.speed_tenths.into(), 1);
        out.extend_from_slice(b",\"odometer_mm\":");
        integer(out, reading.odometer_mm);
        out.extend_from_slice(b",\"paused_ms\":");
        integer(out, reading.paused_ms);
        out.extend_from_slice(b",\"state\":\"");
        out.extend_from_slice(reading.state.as_str().as_bytes());
        match reading.event {
            None => out.extend_from_slice(b"\",\"event\":null"),
            Some(event) => {
                out.extend_from_slice(b"\",\"event\":\"");
                out.extend_from_slice(event.as_str().as_bytes());
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"seq\":");
        integer(out, reading.seq);
        out.push(b'}');
    }

    fn compact(&mut self, reading: &Reading, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"vehicle_id\":");
        integer(out, reading.vehicle_id.into());
        out.extend_from_slice(b",\"ts\":\"");
        self.timestamp(out, reading.ts_ms);
        out.extend_from_slice(b"\",\"lat\":");
        decimal(out, reading.lat_e6, 6);
        out.extend_from_slice(b",\"lon\":");
        decimal(out, reading.lon_e6, 6);
        out.extend_from_slice(b",\"speed_kmh\":");
        decimal(out, reading.speed_tenths.into(), 1);
        out.extend_from_slice(b",\"state\":\"");
        out.extend_from_slice(reading.state.as_str().as_bytes());
        out.extend_from_slice(b"\",\"trip_id\":");
        integer(out, reading.index);
        out.push(b'}');
    }

    /// Appends a time in RFC 3339 with milliseconds, in UTC.
    fn timestamp(&mut self, out: &mut Vec<u8>, ts_ms: i64) {
        let second = ts_ms.div_euclid(1_000);
        if second != self.second {
            self.second = second;
            self.date = date(second);
        }
        out.extend_from_slice(&self.date);
        padded(out, u32::try_from(ts_ms.rem_euclid(1_000)).unwrap_or(0), 3);
        out.push(b'Z');
    }
}

/// Appends the record's key: the vehicle's id as text.
pub fn write_key(reading: &Reading, out: &mut Vec<u8>) {
    integer(out, reading.vehicle_id.into());
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{Fleet, FleetSpec};

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_record_is_json_with_its_fields_in_order() {
        let mut encoder = Encoder::new(Format::Telemetry);
        for reading in Fleet::new(FleetSpec::default()).expect("valid").take(200_000).step_by(7) {
            let record = text(|out| encoder.write(&reading, out));
            let json: Value = serde_json::from_str(&record).expect("JSON");
            assert_eq!(json["vehicle_id"], reading.vehicle_id);
            assert_eq!(json["trip_id"], reading.trip_id);
            assert_eq!(json["region"], reading.region.as_str());
            assert_eq!(json["odometer_mm"], reading.odometer_mm);
            assert_eq!(json["paused_ms"], reading.paused_ms);
            assert_eq!(json["event"].as_str(), reading.event.map(crate::Event::as_str));
            assert_eq!(json["seq"], reading.seq);
            let lat = json["lat"].as_f64().expect("a number");
            assert!((lat * 1e6 - reading.lat_e6 as f64).abs() < 0.01);
            let mut fields = record.split(['{', ',']).filter_map(|field| field.split_once("\":"));
            for name in "vehicle_id driver_id trip_id region ts lat lon speed_kmh odometer_mm \
                paused_ms state event seq"
                .split_whitespace()
            {
                assert_eq!(fields.next().map(|(name, _)| &name[1..]), Some(name));
            }
            assert_eq!(fields.next(), None);
        }
    }

    #[test]
    fn a_compact_record_has_about_134_bytes_and_numbers_itself() {
        let spec = FleetSpec { vehicles: 10_000, ..FleetSpec::default() };
        let (mut encoder, mut out, mut bytes) = (Encoder::new(Format::Compact), Vec::new(), 0);
        for (n, reading) in Fleet::new(spec).expect("valid").take(1_000_000).enumerate() {
            out.clear();
            encoder.write(&reading, &mut out);
            bytes += out.len();
            if n % 997 == 0 {
                let json: Value = serde_json::from_slice(&out).expect("JSON");
                assert_eq!(json["trip_id"], n);
                assert_eq!(json.as_object().map(serde_json::Map::len), Some(7));
            }
        }
        let mean = bytes / 1_000_000;
        assert!((130..=138).contains(&mean), "{mean} bytes");
    }

    #[test]
    fn a_warm_buffer_does_not_grow() {
        let (mut encoder, mut out) = (Encoder::new(Format::Telemetry), Vec::with_capacity(400));
        for reading in Fleet::new(FleetSpec::default()).expect("valid").take(100_000) {
            out.clear();
            encoder.write(&reading, &mut out);
        }
        assert_eq!(out.capacity(), 400);
    }
}
