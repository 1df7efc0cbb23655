//! Tests on the real broker and the real database: the daemon is a process of its own, as a user runs it.

mod delivery;
mod modes;
mod partitions;
mod support;
