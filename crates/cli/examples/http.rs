//! The program `proactor` with HTTP/1.1 in its smallest form: each request has the same answer. It
//! is for load generators that speak nothing else (`benches/load`).
//!
//! ```sh
//! cargo run --release -p proactor-cli --example http -- serve --protocol http
//! ```

use std::process::ExitCode;

use proactor::{Input, Needs, Outbox, Protocol};

/// A request as wrk sends it.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

/// The longest line of a request.
const LINE_MAX: usize = 8192;

struct Http;

impl Protocol for Http {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(LINE_MAX) {
            // An empty line ends a request without a body.
            if line.trim_ascii().is_empty() {
                out.send(RESPONSE);
            }
        }
    }
}

fn main() -> ExitCode {
    proactor_cli::main_with(|registry| {
        registry.add("http", |_peer| Http).example(REQUEST, RESPONSE);
    })
}
