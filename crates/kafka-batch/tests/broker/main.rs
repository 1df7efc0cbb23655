//! Tests on the real broker. `make valgrind` runs them under valgrind, so each is small.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails it as the test itself would")]

mod assigning;
mod dropping;
mod faults;
mod group;
mod positions;
mod reading;
mod support;
