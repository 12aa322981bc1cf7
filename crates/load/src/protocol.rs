//! The protocol of a server, and what is sent to it.

use std::sync::Arc;

use serde::Serialize;

/// A request and its reply, each time the same; neither is empty.
pub type Example = (Arc<[u8]>, Arc<[u8]>);

/// The protocol of a server, and what is sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadProtocol {
    /// The name of the protocol.
    #[serde(rename = "protocol")]
    pub name: String,
    /// What is sent and must be received for it, message after message; `None` for pseudo-random
    /// bytes that the server echoes.
    #[serde(skip)]
    pub example: Option<Example>,
}

impl LoadProtocol {
    /// Returns echo, with pseudo-random bytes.
    pub fn echo() -> LoadProtocol {
        LoadProtocol { name: "echo".to_owned(), example: None }
    }
}
