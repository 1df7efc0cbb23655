//! Tests plans and encoders with whole records, by the public API.

mod copy;
mod evolve;
mod fixtures;
mod mapping;
mod reference;
