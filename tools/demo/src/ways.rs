//! The ways to write into the table without Kafka. Each call of [`write()`] uses one connection and one transaction.

use anyhow::Result;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};

use crate::rows::{self, COLUMNS, Row};

/// The largest number of parameters that the Postgres protocol allows in one statement.
const MAX_PARAMETERS: usize = 65_535;
const PARAMETERS: usize = 13;
/// The largest number of rows of one `VALUES`.
pub(crate) const MAX_VALUES_ROWS: usize = MAX_PARAMETERS / PARAMETERS;
const CHUNK: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `INSERT … VALUES (…)`, prepared.
    Insert,
    /// `INSERT … VALUES (…), (…), …`, prepared for a fixed number of rows.
    Values,
    /// `INSERT … SELECT * FROM unnest(…)`, prepared, one array per column.
    Unnest,
    CopyText,
    CopyBinary,
}

/// Returns the statement that writes `rows` rows. Only the statement of [`Way::Values`] depends on the number of rows.
pub(crate) fn statement(way: Way, rows: usize) -> String {
    match way {
        Way::Insert => values_sql(1),
        Way::Values => values_sql(rows),
        Way::Unnest => format!(
            "INSERT INTO ride ({COLUMNS}) SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::text[], \
             $5::timestamptz[], $6::float8[], $7::float8[], $8::float4[], $9::int8[], $10::int8[], $11::text[], \
             $12::text[], $13::int8[])"
        ),
        Way::CopyText => format!("COPY ride ({COLUMNS}) FROM STDIN"),
        Way::CopyBinary => format!("COPY ride ({COLUMNS}) FROM STDIN (FORMAT binary)"),
    }
}

fn values_sql(rows: usize) -> String {
    let tuples = (0..rows).map(|row| {
        let places: Vec<String> = (1..=PARAMETERS).map(|column| format!("${}", row * PARAMETERS + column)).collect();
        format!("({})", places.join(", "))
    });
    format!("INSERT INTO ride ({COLUMNS}) VALUES {}", tuples.collect::<Vec<_>>().join(", "))
}

/// Writes `rows`, and waits until they are committed. `statement` must be a result of [`statement()`] for the same way. With
/// [`Way::Values`], it must also be for the same number of rows.
///
/// # Errors
/// If Postgres refuses the rows or is unavailable. If the connection breaks, the rows may have been written nevertheless.
pub(crate) async fn write(way: Way, statement: &str, rows: &[&Row], connection: &mut PgConnection) -> Result<()> {
    match way {
        Way::Insert | Way::Values => {
            let query = rows.iter().fold(sqlx::query(statement), |query, row| bind(query, row));
            query.execute(connection).await?;
        }
        Way::Unnest => {
            unnest(statement, rows).execute(connection).await?;
        }
        Way::CopyText | Way::CopyBinary => {
            let bytes = encode(way, rows);
            let mut copy = connection.copy_in_raw(statement).await?;
            for chunk in bytes.chunks(CHUNK) {
                copy.send(chunk).await?;
            }
            copy.finish().await?;
        }
    }
    Ok(())
}

fn encode(way: Way, rows: &[&Row]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * 180);
    if way == Way::CopyText {
        rows.iter().for_each(|row| rows::text_row(row, &mut bytes));
        return bytes;
    }
    rows::binary_header(&mut bytes);
    rows.iter().for_each(|row| rows::binary_row(row, &mut bytes));
    rows::binary_trailer(&mut bytes);
    bytes
}

type Bound<'q> = Query<'q, Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Bound<'q>, row: &'q Row) -> Bound<'q> {
    query
        .bind(row.vehicle_id)
        .bind(row.driver_id)
        .bind(row.trip_id)
        .bind(&row.region)
        .bind(row.ts)
        .bind(row.lat)
        .bind(row.lon)
        .bind(row.speed_kmh)
        .bind(row.odometer_mm)
        .bind(row.paused_ms)
        .bind(&row.state)
        .bind(row.event.as_deref())
        .bind(row.seq)
}

fn unnest<'q>(statement: &'q str, rows: &[&'q Row]) -> Bound<'q> {
    fn column<'q, T>(rows: &[&'q Row], value: impl Fn(&'q Row) -> T) -> Vec<T> {
        rows.iter().map(|row| value(row)).collect()
    }
    sqlx::query(statement)
        .bind(column(rows, |row| row.vehicle_id))
        .bind(column(rows, |row| row.driver_id))
        .bind(column(rows, |row| row.trip_id))
        .bind(column(rows, |row| row.region.as_str()))
        .bind(column(rows, |row| row.ts))
        .bind(column(rows, |row| row.lat))
        .bind(column(rows, |row| row.lon))
        .bind(column(rows, |row| row.speed_kmh))
        .bind(column(rows, |row| row.odometer_mm))
        .bind(column(rows, |row| row.paused_ms))
        .bind(column(rows, |row| row.state.as_str()))
        .bind(column(rows, |row| row.event.as_deref()))
        .bind(column(rows, |row| row.seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_of_many_rows_numbers_its_places_through() {
        let sql = statement(Way::Values, 2);
        assert!(sql.ends_with("$12, $13), ($14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)"), "{sql}");
        assert_eq!(statement(Way::Insert, 1), statement(Way::Values, 1));
        assert!(statement(Way::Values, MAX_VALUES_ROWS).contains("$65533)"));
    }
}
