//! The I/O models by name, and the servers that do not wait in a loop of the core: threads,
//! processes and coroutines.
#![deny(unsafe_code)]

pub mod blocking;
pub mod coroutine;
pub mod model;
pub mod processes;
pub mod registry;
