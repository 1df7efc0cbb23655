//! The settings that concern rows. The daemon reads and checks the configuration files, and builds these types from them.

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

/// All settings that decide how a pipeline's records become rows of one table.
#[derive(Clone, Copy, Debug)]
pub struct RowSpec<'a> {
    /// The pipeline's name. The configuration keys of its faults begin with `pipelines.NAME`.
    pub pipeline: &'a str,
    /// How values are decoded.
    pub decode: &'a Decode,
    /// The structure around the fields, and how keys and deletes are read.
    pub shape: &'a Shape,
    pub table: &'a Table,
    /// The mapping. `None` means that each column takes the top-level field of its name.
    pub columns: Option<&'a [Column]>,
    /// `where`: rows that don't match this filter are not written.
    pub keep: Option<&'a RowFilter>,
    /// How to treat fields without a column.
    pub unknown_fields: &'a UnknownFields,
    /// `batch.max_bytes`. The rows of a record after its first one may together take this many bytes, or 1 MiB if `max_bytes` is
    /// less.
    pub max_bytes: u64,
}
