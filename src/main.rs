//! The io_uring server and the tools.
fn main() {}
