//! Protocols by name, as `--protocol` and `--listen` choose them.

use std::fmt;
use std::sync::Arc;

use proactor::peer::{Factory, Peer};
use proactor::protocol::{Chargen, Chat, Discard, Echo, Prefix, Protocol, Reply, Talk, Upper};

/// Returns the factory for a text, or why it refuses the text.
type MakeFactory = Arc<dyn Fn(Option<&str>) -> Result<Factory, String> + Send + Sync>;

/// The names that a command line knows, and what makes the protocol of each.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    entries: Vec<Entry>,
}

/// One name of a [`Registry`].
#[derive(Clone)]
pub struct Entry {
    name: String,
    /// The text that stands for no text, if the name takes one.
    default_text: Option<String>,
    make: MakeFactory,
    needs_console: bool,
    example: Option<(Vec<u8>, Vec<u8>)>,
}

/// A protocol that was chosen by its name.
#[derive(Debug, Clone)]
pub struct NamedProtocol {
    name: String,
    /// What makes the protocol of each connection.
    pub factory: Factory,
    /// Whether it sends to an operator, so that a console is needed.
    pub needs_console: bool,
    /// A request and the reply to it, if the registry knows any.
    pub example: Option<(Vec<u8>, Vec<u8>)>,
}

impl Registry {
    /// The longest text behind a name, in bytes.
    pub const TEXT_MAX: usize = 256;

    /// A registry of the protocols that the core provides.
    pub fn builtin() -> Registry {
        let mut registry = Registry::default();
        registry.add("echo", |_| Echo);
        registry.add("upper", |_| Upper).example("hello, world\n", "HELLO, WORLD\n");
        let reply = |text: Option<&str>| {
            let reply = Reply::new(text.unwrap_or(Reply::DEFAULT));
            Ok(move |_: &Peer| reply.clone())
        };
        let entry = registry.add_with("reply", reply);
        entry.default_text = Some(Reply::DEFAULT.to_owned());
        entry.example("hello, world\n", format!("{}\n", Reply::DEFAULT));
        let prefix = |text: Option<&str>| {
            let prefix = Prefix::new(text.unwrap_or(Prefix::DEFAULT));
            Ok(move |_: &Peer| prefix.clone())
        };
        let entry = registry.add_with("prefix", prefix);
        entry.default_text = Some(Prefix::DEFAULT.to_owned());
        entry.example("hello, world\n", format!("{}hello, world ===\n", Prefix::DEFAULT));
        registry.add("discard", |_| Discard);
        registry.add("chargen", |_| Chargen);
        registry.add("chat", |peer| Chat::new(peer.id()));
        registry.add("talk", |peer| Talk::new(peer.id())).needs_console = true;
        registry
    }

    /// Adds a name whose protocols `factory` makes. A name that is there already is replaced.
    pub fn add<F, P>(&mut self, name: &str, factory: F) -> &mut Entry
    where
        F: Fn(&Peer) -> P + Send + Sync + 'static,
        P: Protocol,
    {
        let factory = Factory::shared(factory);
        self.insert(name, None, Arc::new(move |_| Ok(factory.clone())))
    }

    /// Adds a name that may be followed by a text, as `NAME=TEXT`: `make` returns the factory for
    /// the text, or why it refuses it.
    pub fn add_with<M, F, P>(&mut self, name: &str, make: M) -> &mut Entry
    where
        M: Fn(Option<&str>) -> Result<F, String> + Send + Sync + 'static,
        F: Fn(&Peer) -> P + Send + Sync + 'static,
        P: Protocol,
    {
        let make = move |text: Option<&str>| make(text).map(Factory::shared);
        self.insert(name, Some(String::new()), Arc::new(make))
    }

    fn insert(&mut self, name: &str, text: Option<String>, make: MakeFactory) -> &mut Entry {
        self.entries.retain(|entry| entry.name != name);
        let (name, needs_console, example) = (name.to_owned(), false, None);
        self.entries.push(Entry { name, default_text: text, make, needs_console, example });
        self.entries.last_mut().expect("an entry was pushed")
    }

    /// Iterates over all names, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.name)
    }

    /// Returns the protocol of this name, or of those that take a text, of `NAME=TEXT`: the text is
    /// all that follows the first `=`.
    ///
    /// # Errors
    /// There is no such name, or its text is refused.
    pub fn find(&self, name: &str) -> Result<NamedProtocol, String> {
        let (kind, text) = match name.split_once('=') {
            Some((kind, text)) => (kind, Some(text)),
            None => (name, None),
        };
        let Some(entry) = self.entries.iter().find(|entry| entry.name == kind) else {
            let names = self.names().collect::<Vec<_>>().join(", ");
            return Err(format!("no protocol {kind:?}: one of {names}"));
        };
        match text {
            Some(_) if entry.default_text.is_none() => {
                return Err(format!("no protocol {name:?}: {kind} takes no text"));
            }
            Some(text) if text.len() > Registry::TEXT_MAX => {
                return Err(format!("a text of {} bytes: {} at most", text.len(), Self::TEXT_MAX));
            }
            Some(text) if text.contains(char::is_control) => {
                return Err(format!(
                    "no text {text:?}: it is one line, without control characters"
                ));
            }
            _ => {}
        }
        let factory = (entry.make)(text)?;
        // A text that is the default is left out.
        let shown = text.filter(|text| entry.default_text.as_deref() != Some(text));
        let name = shown.map_or_else(|| kind.to_owned(), |text| format!("{kind}={text}"));
        // The reply may depend on the text.
        let example = entry.example.clone().filter(|_| shown.is_none());
        let needs_console = entry.needs_console;
        Ok(NamedProtocol { name, factory, needs_console, example })
    }
}

impl Entry {
    /// Says what a client may send and what it receives for that, each time the same: with this
    /// `--protocol`, `load` and `compare` send it and verify the reply. It is not used with a text
    /// behind the name.
    pub fn example(
        &mut self,
        request: impl Into<Vec<u8>>,
        reply: impl Into<Vec<u8>>,
    ) -> &mut Entry {
        self.example = Some((request.into(), reply.into()));
        self
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Display for NamedProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use proactor::CloseReason;
    use proactor::address::Address;
    use proactor::protocol::testing::converse;
    use proactor::protocol::{Needs, OutboxBuffer};

    use super::*;

    const NAMES: [&str; 8] =
        ["echo", "upper", "reply", "prefix", "discard", "chargen", "chat", "talk"];

    fn reply_of(name: &str, say: &[u8]) -> Vec<u8> {
        let named = Registry::builtin().find(name).unwrap();
        let listener = Arc::new("127.0.0.1:1".parse::<Address>().unwrap());
        let (mut protocol, _) = Peer::with(1, &listener, None, None, named.factory.for_worker(0));
        converse(&mut protocol, [say]).replies
    }

    #[test]
    fn each_example_is_what_its_protocol_replies() {
        let registry = Registry::builtin();
        let examples = NAMES.map(|name| (name, registry.find(name).unwrap().example));
        let examples = examples.into_iter().filter_map(|(name, example)| Some((name, example?)));
        let examples: Vec<_> = examples.collect();
        assert_eq!(examples.len(), 3);
        for (name, (request, reply)) in examples {
            assert_eq!(reply_of(name, &request), reply, "{name}");
            assert_eq!(reply_of(name, &request.repeat(3)), reply.repeat(3), "{name}");
        }
        assert_eq!(registry.find("reply=no").unwrap().example, None);
    }

    #[test]
    fn every_name_is_a_protocol_that_shows_its_name() {
        let registry = Registry::builtin();
        assert_eq!(registry.names().collect::<Vec<_>>(), NAMES);
        for name in NAMES.into_iter().chain(["reply=", "reply=a = b", "prefix==> "]) {
            assert_eq!(registry.find(name).unwrap().to_string(), name);
        }
        assert_eq!(registry.find("reply=ok").unwrap().to_string(), "reply");
        for name in ["shout", "", "shout=loud"] {
            let error = registry.find(name).unwrap_err();
            let kind = name.split('=').next().unwrap();
            assert_eq!(error, format!("no protocol {kind:?}: one of {}", NAMES.join(", ")));
        }
    }

    #[test]
    fn a_text_is_taken_whole_where_one_is_taken() {
        assert_eq!(reply_of("reply=a=b", b"x\n"), b"a=b\n");
        assert_eq!(reply_of("prefix=> ", b"x\n"), b"> x ===\n");
        let registry = Registry::builtin();
        let error = registry.find("echo=loud").unwrap_err();
        assert_eq!(error, r#"no protocol "echo=loud": echo takes no text"#);
        let long = format!("reply={}", "x".repeat(Registry::TEXT_MAX));
        assert!(registry.find(&long).is_ok());
        assert!(registry.find(&format!("{long}x")).unwrap_err().contains("256 at most"));
        assert!(registry.find("reply=a\nb").unwrap_err().contains(r#""a\nb""#));
    }

    #[test]
    fn each_name_has_its_needs_and_its_protocol() {
        for name in NAMES {
            let named = Registry::builtin().find(name).unwrap();
            let listener = Arc::new("127.0.0.1:1".parse::<Address>().unwrap());
            let (mut protocol, _) =
                Peer::with(7, &listener, None, None, named.factory.for_worker(0));
            let mut out = OutboxBuffer::default();
            protocol.open(&mut out.outbox());
            protocol.refill(&mut out.outbox());
            protocol.close(CloseReason::Finished, &mut out.outbox());
            assert_eq!(!out.queue.is_empty(), name == "chargen");
            assert_eq!(
                out.context.messages.len(),
                if ["chat", "talk"].contains(&name) { 2 } else { 0 }
            );
            let needs = if name == "chat" { Needs::BROADCAST } else { Needs::NOTHING };
            assert_eq!((named.factory.needs, named.needs_console), (needs, name == "talk"));
        }
    }

    #[test]
    fn an_own_protocol_replaces_a_builtin_of_its_name_and_has_an_example() {
        let mut registry = Registry::builtin();
        registry.add("upper", |_| Echo).example("x", "x");
        registry.add_with("mark", |text| match text {
            Some("bad") => Err("a bad text".to_owned()),
            _ => Ok(|_: &Peer| Echo),
        });
        assert_eq!(registry.names().count(), NAMES.len() + 1);
        let upper = registry.find("upper").unwrap();
        assert_eq!(upper.example, Some((b"x".to_vec(), b"x".to_vec())));
        assert_eq!(registry.find("mark=>").unwrap().to_string(), "mark=>");
        assert_eq!(registry.find("mark=bad").unwrap_err(), "a bad text");
    }
}
