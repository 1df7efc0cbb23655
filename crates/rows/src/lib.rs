//! Converts bytes to rows.
//!
//! A record's value is decoded, its fields are mapped to the columns of a table, and each column is written as a field of binary
//! COPY. Catalogs, schemas and records are arguments, rows and SQL text are results. The only I/O of this crate is reading local
//! schema files.
//!
//! The modules, roughly from the bottom up:
//!
//! - `value`: a decoded field, and why a record was rejected. `json`, `render`: JSON text, read and written.
//! - [`catalog`]: a table as Postgres describes it. [`schema`]: Avro's and Protobuf's schemas.
//! - [`spec`]: what the configuration says about decoding, mapping and the table.
//! - [`copy`]: one encoder per Postgres type. [`decode`]: one decoder per format. [`write_mode`]:
//!   the SQL of each write mode. [`ddl`]: the table that `create = true` creates.
//! - [`mapping`]: the plan, which combines all of these for one pipeline, and the encoder that runs the plan.

pub mod base64;
pub mod catalog;
pub mod copy;
pub mod ddl;
pub mod decode;
pub mod fault;
pub mod json;
pub mod mapping;
mod render;
pub mod schema;
pub mod spec;
pub mod value;
pub mod write_mode;
