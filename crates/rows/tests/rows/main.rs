//! Records through plans and encoders, as their users call them.

mod copy;
mod evolve;
mod fixtures;
mod mapping;
mod reference;
