//! The command line of Proactor: the commands `proactor` and `reactor`, the interactive client,
//! and `explain`.
#![deny(unsafe_code)]

pub mod client;
pub mod commands;
pub mod explain;
