//! The `mixlog` command.
fn main() {}
