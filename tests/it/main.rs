//! Tests on the real broker and the real database: the daemon is a process of its own, as a user runs it.

mod allocation;
mod claims;
mod delivery;
mod group;
mod rebalance;
mod support;
