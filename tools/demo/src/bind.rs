//! A timestamp that sqlx can bind, alone and in arrays.

use std::fmt;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

/// The type's oid in `pg_type`. It is the same in every database.
const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);
const MICROS_1970_TO_2000: i64 = 946_684_800_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timestamptz(jiff::Timestamp);

impl Timestamptz {
    pub(crate) fn new(at: jiff::Timestamp) -> Self {
        Self(at)
    }

    /// Returns the microseconds since 2000-01-01, as in Postgres' binary format.
    pub(crate) fn micros_since_2000(self) -> i64 {
        self.0.as_microsecond() - MICROS_1970_TO_2000
    }
}

impl fmt::Display for Timestamptz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Type<Postgres> for Timestamptz {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Timestamptz {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Timestamptz {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.micros_since_2000().to_be_bytes());
        Ok(IsNull::No)
    }
}
