//! The program `proactor` with two protocols more: they are served on every model, recorded, and
//! shown at the console. With an example of a request and its reply, `load` and `compare` measure
//! them.
//!
//! ```sh
//! cargo run -p proactor-cli --example own_protocol -- serve --protocol shout --model thread
//! cargo run --release -p proactor-cli --example own_protocol -- compare --protocol shout
//! ```

use std::process::ExitCode;

use proactor::{Input, Needs, Outbox, Peer, Protocol};

struct Shout;

impl Protocol for Shout {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        let mut bytes = input.take_all();
        bytes.make_ascii_uppercase();
        out.send(bytes);
    }
}

/// Puts a mark in front of each line.
struct Mark {
    mark: String,
}

impl Protocol for Mark {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(1024) {
            out.send(&*self.mark);
            out.send(line);
        }
    }
}

fn main() -> ExitCode {
    proactor_cli::main_with(|registry| {
        registry.add("shout", |_peer| Shout).example("hello", "HELLO");
        registry.add_with("mark", |text| {
            let mark = text.unwrap_or("?").to_owned();
            Ok(move |_peer: &Peer| Mark { mark: mark.clone() })
        });
    })
}
