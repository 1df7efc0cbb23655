//! The database's side.

pub mod catalog;
