//! Records through plans and encoders, by the public API.

mod copy;
mod evolve;
mod fixtures;
mod mapping;
mod reference;
