//! Reads a topic.
fn main() {}
