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

/// All settings that decide how a pipeline's records become rows of one table. The daemon borrows them from its configuration,
/// and [`Plan::new`](crate::mapping::Plan::new) makes a plan of them.
#[derive(Clone, Copy, Debug)]
pub struct RowSpec<'a> {
    /// The pipeline's name. It is part of the key that an error names, such as `pipelines.NAME.columns`.
    pub pipeline: &'a str,
    pub decode: &'a Decode,
    pub shape: &'a Shape,
    pub table: &'a Table,
    /// The mapping. `None` means that each column takes the top-level field of its name.
    pub columns: Option<&'a [Column]>,
    /// The filter `where`: rows that don't match it are not written. `None` if all rows are written.
    pub keep: Option<&'a RowFilter>,
    pub unknown_fields: &'a UnknownFields,
    /// `batch.max_bytes`. Limits the bytes of one record's rows, not counting its first row. The limit is at least 1 MiB.
    pub max_bytes: u64,
}
