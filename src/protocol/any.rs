//! A protocol chosen at run time, by name.

use std::fmt;
use std::str::FromStr;

use super::{Chat, Echo, Outbox, Protocol, Upper};
use crate::buffer::Chunk;

/// One of the protocols that come with the house.
#[derive(Debug, Clone)]
pub enum Any {
    /// [`Echo`]
    Echo(Echo),
    /// [`Upper`]
    Upper(Upper),
    /// [`Chat`]
    Chat(Chat),
}

impl Any {
    /// Their names.
    pub const NAMES: [&str; 3] = ["echo", "upper", "chat"];
}

impl Protocol for Any {
    fn open(&mut self, out: &mut Outbox<'_>) {
        match self {
            Any::Echo(echo) => echo.open(out),
            Any::Upper(upper) => upper.open(out),
            Any::Chat(chat) => chat.open(out),
        }
    }

    fn data(&mut self, chunk: Chunk, out: &mut Outbox<'_>) {
        match self {
            Any::Echo(echo) => echo.data(chunk, out),
            Any::Upper(upper) => upper.data(chunk, out),
            Any::Chat(chat) => chat.data(chunk, out),
        }
    }

    fn end(&mut self, out: &mut Outbox<'_>) {
        match self {
            Any::Echo(echo) => echo.end(out),
            Any::Upper(upper) => upper.end(out),
            Any::Chat(chat) => chat.end(out),
        }
    }
}

impl FromStr for Any {
    type Err = String;

    fn from_str(name: &str) -> Result<Any, String> {
        match name {
            "echo" => Ok(Any::Echo(Echo)),
            "upper" => Ok(Any::Upper(Upper)),
            "chat" => Ok(Any::Chat(Chat::default())),
            _ => Err(format!("no protocol {name:?}: one of {}", Any::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Any::Echo(_) => "echo",
            Any::Upper(_) => "upper",
            Any::Chat(_) => "chat",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_protocol_that_says_its_name() {
        for name in Any::NAMES {
            assert_eq!(name.parse::<Any>().unwrap().to_string(), name);
        }
        assert_eq!(
            "shout".parse::<Any>().unwrap_err(),
            r#"no protocol "shout": one of echo, upper, chat"#
        );
    }
}
