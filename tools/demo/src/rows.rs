//! The table into which all experiments write, and its rows. Rows are decoded from the fleet's JSON, and encoded for
//! binary and textual COPY.

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

use crate::bind::Timestamptz;

/// The columns, in the order in which [`binary_row`] and [`text_row`] write them.
pub(crate) const COLUMNS: &str =
    "vehicle_id, driver_id, trip_id, region, ts, lat, lon, speed_kmh, odometer_mm, paused_ms, state, event, seq";
const COLUMN_COUNT: i16 = 13;

/// Recreates the table with its indexes: a btree for lookups of a vehicle, and a BRIN on the time.
pub(crate) const FRESH_TABLE: &str = "DROP TABLE IF EXISTS ride;
    CREATE TABLE ride (vehicle_id int8, driver_id int8, trip_id int8, region text, ts timestamptz, lat float8, lon float8,
        speed_kmh float4, odometer_mm int8, paused_ms int8, state text, event text, seq int8);
    CREATE INDEX ON ride (vehicle_id, ts);
    CREATE INDEX ON ride USING brin (ts);";

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Row {
    pub(crate) vehicle_id: i64,
    pub(crate) driver_id: i64,
    pub(crate) trip_id: i64,
    pub(crate) region: String,
    #[serde(deserialize_with = "timestamptz")]
    pub(crate) ts: Timestamptz,
    pub(crate) lat: f64,
    pub(crate) lon: f64,
    pub(crate) speed_kmh: f32,
    pub(crate) odometer_mm: i64,
    pub(crate) paused_ms: i64,
    pub(crate) state: String,
    pub(crate) event: Option<String>,
    pub(crate) seq: i64,
}

fn timestamptz<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamptz, D::Error> {
    let text = <&str>::deserialize(from)?;
    text.parse().map(Timestamptz::new).map_err(serde::de::Error::custom)
}

impl Row {
    pub(crate) fn decode(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).context("the record is not the fleet's")
    }
}

/// Appends the header of a binary COPY: the signature, no flags, and no extension.
pub(crate) fn binary_header(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
}

pub(crate) fn binary_trailer(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1i16).to_be_bytes());
}

pub(crate) fn binary_row(row: &Row, out: &mut Vec<u8>) {
    fn field<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
        out.extend_from_slice(&u32::try_from(N).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&COLUMN_COUNT.to_be_bytes());
    field(out, row.vehicle_id.to_be_bytes());
    field(out, row.driver_id.to_be_bytes());
    field(out, row.trip_id.to_be_bytes());
    text(out, &row.region);
    field(out, row.ts.micros_since_2000().to_be_bytes());
    field(out, row.lat.to_be_bytes());
    field(out, row.lon.to_be_bytes());
    field(out, row.speed_kmh.to_be_bytes());
    field(out, row.odometer_mm.to_be_bytes());
    field(out, row.paused_ms.to_be_bytes());
    text(out, &row.state);
    match &row.event {
        Some(event) => text(out, event),
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
    field(out, row.seq.to_be_bytes());
}

/// Appends one row of a COPY in text form. The fleet's texts contain no character that has to be escaped.
pub(crate) fn text_row(row: &Row, out: &mut Vec<u8>) {
    use std::io::Write;
    let Row {
        vehicle_id, driver_id, trip_id, region, ts, lat, lon, speed_kmh, odometer_mm, paused_ms, state, seq, ..
    } = row;
    let event = row.event.as_deref().unwrap_or("\\N");
    // Writing into a vector can't fail.
    drop(writeln!(
        out,
        "{vehicle_id}\t{driver_id}\t{trip_id}\t{region}\t{ts}\t{lat}\t{lon}\t{speed_kmh}\t{odometer_mm}\t{paused_ms}\t\
         {state}\t{event}\t{seq}"
    ));
}

#[cfg(test)]
mod tests {
    use fleet::{Encoder, Fleet, FleetSpec, Format};

    use super::*;

    #[test]
    fn a_record_of_the_fleet_becomes_a_row_and_both_kinds_of_copy() {
        let reading = Fleet::new(FleetSpec::default()).unwrap().nth(1_234).unwrap();
        let mut json = Vec::new();
        Encoder::new(Format::Telemetry).write(&reading, &mut json);
        let row = Row::decode(&json).unwrap();
        assert_eq!(row.vehicle_id, i64::from(reading.vehicle_id));
        assert_eq!(row.seq.unsigned_abs(), reading.seq);
        // Postgres counts from 2000, and the fleet counts from 1970.
        assert_eq!(row.ts.micros_since_2000(), (reading.ts_ms - 946_684_800_000) * 1_000);
        let mut binary = Vec::new();
        binary_row(&row, &mut binary);
        assert_eq!(binary[..2], [0, 13]);
        let words = row.region.len() + row.state.len() + row.event.as_deref().map_or(0, str::len);
        assert_eq!(binary.len(), 2 + 13 * 4 + 9 * 8 + 4 + words);
        let mut text = Vec::new();
        text_row(&row, &mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.trim_end().split('\t').count(), 13);
        assert!(text.contains(&row.ts.to_string()), "{text}");
    }

    #[test]
    fn what_is_not_the_fleets_is_refused() {
        assert!(Row::decode(b"{\"vehicle_id\": 1}").is_err());
    }
}
