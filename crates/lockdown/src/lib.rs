//! What the process of a server gives up before it serves clients: the rights of its user, further
//! io_uring rings, and access to files and to the network.
//!
//! Each function is called once, in this order, while the process has one thread: what a thread
//! gives up, the threads and processes that it makes later do not have either. None of it can be
//! taken back.

mod files;
mod rings;
mod user;

pub use files::forbid_files;
pub use rings::forbid_rings;
pub use user::UserSpec;
