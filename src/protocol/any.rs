//! A protocol chosen at run time, by name.

use std::fmt;
use std::str::FromStr;

use super::{Chargen, Chat, Discard, Echo, Input, Outbox, Prefix, Protocol, Reply, Talk, Upper};

/// One of the protocols that come with the house.
#[derive(Debug, Clone)]
pub enum Any {
    /// [`Echo`]
    Echo(Echo),
    /// [`Upper`]
    Upper(Upper),
    /// [`Reply`]
    Reply(Reply),
    /// [`Prefix`]
    Prefix(Prefix),
    /// [`Discard`]
    Discard(Discard),
    /// [`Chargen`]
    Chargen(Chargen),
    /// [`Chat`]
    Chat(Chat),
    /// [`Talk`]
    Talk(Talk),
}

/// Does the same with whichever it is.
macro_rules! each {
    ($any:expr, $protocol:ident => $does:expr) => {
        match $any {
            Any::Echo($protocol) => $does,
            Any::Upper($protocol) => $does,
            Any::Reply($protocol) => $does,
            Any::Prefix($protocol) => $does,
            Any::Discard($protocol) => $does,
            Any::Chargen($protocol) => $does,
            Any::Chat($protocol) => $does,
            Any::Talk($protocol) => $does,
        }
    };
}

impl Any {
    /// Their names.
    pub const NAMES: [&str; 8] =
        ["echo", "upper", "reply", "prefix", "discard", "chargen", "chat", "talk"];

    /// The longest text of a [`Reply`] or [`Prefix`] in bytes: what a newline of the peer's may
    /// become.
    pub const TEXT_MAX: usize = 256;
}

impl Protocol for Any {
    fn open(&mut self, me: u64, out: &mut Outbox<'_>) {
        each!(self, protocol => protocol.open(me, out));
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        each!(self, protocol => protocol.data(input, out));
    }

    fn end(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        each!(self, protocol => protocol.end(input, out));
    }

    fn refill(&mut self, out: &mut Outbox<'_>) {
        each!(self, protocol => protocol.refill(out));
    }

    fn drain(&mut self, out: &mut Outbox<'_>) {
        each!(self, protocol => protocol.drain(out));
    }

    fn broadcasts(&self) -> bool {
        each!(self, protocol => protocol.broadcasts())
    }

    fn close(&mut self, out: &mut Outbox<'_>) {
        each!(self, protocol => protocol.close(out));
    }
}

impl FromStr for Any {
    type Err = String;

    /// A name, or of those that say a text, `NAME=TEXT`: the text is all that follows the first
    /// `=`.
    fn from_str(name: &str) -> Result<Any, String> {
        let (kind, text) = match name.split_once('=') {
            Some((kind, text)) => (kind, Some(text)),
            None => (name, None),
        };
        let any = match kind {
            "echo" => Any::Echo(Echo),
            "upper" => Any::Upper(Upper),
            "reply" => Any::Reply(Reply::new(text.unwrap_or(Reply::DEFAULT))),
            "prefix" => Any::Prefix(Prefix::new(text.unwrap_or(Prefix::DEFAULT))),
            "discard" => Any::Discard(Discard),
            "chargen" => Any::Chargen(Chargen),
            "chat" => Any::Chat(Chat::default()),
            "talk" => Any::Talk(Talk::default()),
            _ => return Err(format!("no protocol {kind:?}: one of {}", Any::NAMES.join(", "))),
        };
        match text {
            None => Ok(any),
            Some(_) if !matches!(any, Any::Reply(_) | Any::Prefix(_)) => {
                Err(format!("no protocol {name:?}: {kind} takes no text"))
            }
            Some(text) if text.len() > Any::TEXT_MAX => {
                Err(format!("a text of {} bytes: {} at most", text.len(), Any::TEXT_MAX))
            }
            Some(text) if text.contains(char::is_control) => {
                Err(format!("no text {text:?}: it is one line, without control characters"))
            }
            Some(_) => Ok(any),
        }
    }
}

impl fmt::Display for Any {
    /// As it is read; a text that is the default is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Any::Echo(_) => f.pad("echo"),
            Any::Upper(_) => f.pad("upper"),
            Any::Reply(reply) if reply.text() == Reply::DEFAULT => f.pad("reply"),
            Any::Reply(reply) => write!(f, "reply={}", reply.text()),
            Any::Prefix(prefix) if prefix.text() == Prefix::DEFAULT => f.pad("prefix"),
            Any::Prefix(prefix) => write!(f, "prefix={}", prefix.text()),
            Any::Discard(_) => f.pad("discard"),
            Any::Chargen(_) => f.pad("chargen"),
            Any::Chat(_) => f.pad("chat"),
            Any::Talk(_) => f.pad("talk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::OutboxBuffer;
    use super::super::testing::{converse, to_operator, to_others};
    use super::*;

    #[test]
    fn every_name_is_a_protocol_that_says_its_name() {
        for name in Any::NAMES.into_iter().chain(["reply=", "reply=a = b", "prefix==> "]) {
            assert_eq!(name.parse::<Any>().unwrap().to_string(), name);
        }
        for name in ["shout", "", "shout=loud"] {
            let error = name.parse::<Any>().unwrap_err();
            let kind = name.split('=').next().unwrap();
            let names = "one of echo, upper, reply, prefix, discard, chargen, chat, talk";
            assert_eq!(error, format!("no protocol {kind:?}: {names}"));
        }
    }

    #[test]
    fn a_text_is_taken_whole_by_those_who_say_one_and_by_no_other() {
        let mut reply: Any = "reply=a=b".parse().unwrap();
        assert_eq!(converse(&mut reply, [&b"x\n"[..]]).replies, b"a=b\n");
        let mut prefix: Any = "prefix=> ".parse().unwrap();
        assert_eq!(converse(&mut prefix, [&b"x\n"[..]]).replies, b"> x ===\n");
        let error = "echo=loud".parse::<Any>().unwrap_err();
        assert_eq!(error, r#"no protocol "echo=loud": echo takes no text"#);
        let long = format!("reply={}", "x".repeat(Any::TEXT_MAX));
        assert!(long.parse::<Any>().is_ok());
        assert!(format!("{long}x").parse::<Any>().unwrap_err().contains("256 at most"));
        assert!("reply=a\nb".parse::<Any>().unwrap_err().contains(r#""a\nb""#));
    }

    #[test]
    fn whichever_it_is_does_what_it_does() {
        // Each event reaches the protocol within: who refills, and who has something to tell.
        for name in Any::NAMES {
            let mut any: Any = name.parse().unwrap();
            let mut out = OutboxBuffer::default();
            any.open(1, &mut out.outbox());
            any.refill(&mut out.outbox());
            any.close(&mut out.outbox());
            let refills = (out.requests.refills(), !out.queue.is_empty());
            assert_eq!(refills, (name == "chargen", name == "chargen"));
            assert_eq!(to_others(&out.messages).len(), if name == "chat" { 2 } else { 0 });
            assert_eq!(to_operator(&out.messages).len(), if name == "talk" { 2 } else { 0 });
            any.drain(&mut out.outbox());
            assert!(out.requests.finishes());
            assert_eq!(any.broadcasts(), name == "chat");
        }
    }
}
