//! Tests on the real broker and the real database: the daemon is a process of its own, as a user runs it.

mod cli;
mod cli_check;
mod cli_dead_letters;
mod cli_offsets;
mod cli_verify;
mod delivery;
mod support;
