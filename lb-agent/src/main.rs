//! The `lb-agent` binary.

fn main() {}
