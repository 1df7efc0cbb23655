//! Tests on the real broker and the real database: the daemon is a process of its own, as a user runs it.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails it as the test itself would")]

mod allocation;
mod batches;
mod books;
mod catalog;
mod claims;
mod cli;
mod cli_check;
mod cli_dead_letters;
mod cli_offsets;
mod cli_schema;
mod cli_verify;
mod conformance;
mod crash;
mod dead_letters;
mod delivery;
mod deploy;
mod drift;
mod evolve;
mod faults;
mod flow;
mod formats;
mod formats_registry;
mod group;
mod headroom;
mod insert;
mod ledger;
mod modes;
mod offset_truth;
mod outage;
mod page;
mod page_browser;
mod page_states;
mod partitions;
mod rebalance;
mod replay;
mod routed_modes;
mod routes;
mod servers;
mod service_views;
mod services;
mod support;
mod types;
mod watchdog;
mod zombie;
