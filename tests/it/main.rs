//! Tests on the real broker and the real database: the daemon is a process of its own, as a user runs it.

mod batches;
mod books;
mod catalog;
mod crash;
mod dead_letters;
mod delivery;
mod deploy;
mod outage;
mod page;
mod page_browser;
mod servers;
mod support;
mod types;
mod zombie;
