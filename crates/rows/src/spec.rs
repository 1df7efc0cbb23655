//! The part of the configuration that concerns rows, checked. The binary's crate reads the files and makes these types.

mod column;
mod decode;
mod partition_by;
mod route;
mod row_filter;
mod table;

pub use column::{Aggregate, AggregateFunction, Column, EpochUnit, Function, HashKey, Missing, NulPolicy, Source};
pub use decode::{CsvOptions, Decode, KeyFormat, SchemaSource, Shape};
pub use partition_by::{Expiry, Interval, IntervalUnit, PartitionBy};
pub use route::{Part, Route};
pub use row_filter::{RowFilter, Test};
pub use table::{Table, UnknownFields, WriteMode};

/// The settings by which a pipeline's records become rows of one table.
#[derive(Clone, Copy, Debug)]
pub struct RowSpec<'a> {
    /// The pipeline's name: faults name their keys below `pipelines.NAME`.
    pub pipeline: &'a str,
    /// How values are decoded.
    pub decode: &'a Decode,
    /// The structure around the fields of a record.
    pub shape: &'a Shape,
    /// The target.
    pub table: &'a Table,
    /// The mapping; `None`: every top-level field goes to the column of its name.
    pub columns: Option<&'a [Column]>,
    /// `where`: records for which it doesn't hold have no rows.
    pub keep: Option<&'a RowFilter>,
    /// The policy for fields that no column takes.
    pub unknown_fields: &'a UnknownFields,
    /// `batch.max_bytes`: the rows of one record may take as many bytes as a batch.
    pub max_bytes: u64,
}
