//! A store that all connections share: `set KEY VALUE`, `get KEY`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use proactor::{Builder, Input, Needs, Outbox, Protocol, Server};

type Store = Arc<RwLock<HashMap<String, String>>>;

struct KeyValue {
    store: Store,
}

impl Protocol for KeyValue {
    /// A model that forks refuses it, instead of losing what one connection stored for another.
    fn needs() -> Needs {
        Needs::SHARED_MEMORY
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(1024) {
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().splitn(3, ' ').collect::<Vec<_>>()[..] {
                ["set", key, value] => {
                    let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
                    store.insert(key.to_owned(), value.to_owned());
                    out.send("ok\n");
                }
                ["get", key] => {
                    let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
                    writeln!(out, "{}", store.get(key).map_or("", |value| value));
                }
                _ => out.send("write `set KEY VALUE` or `get KEY`\n"),
            }
        }
    }
}

pub(crate) fn server(address: &str) -> Builder {
    let store = Store::default(); // Made outside of the factory: one for all connections.
    Server::builder().listen(address, move |_peer| KeyValue { store: Arc::clone(&store) })
}

fn main() -> Result<(), proactor::Error> {
    server("127.0.0.1:7004").run()?;
    Ok(())
}
