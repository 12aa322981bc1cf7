//! The readiness server.
fn main() {}
