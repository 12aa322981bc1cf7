//! The program `proactor` with HTTP/1.1 in its smallest form: each request has the same answer. It
//! is for load generators that speak nothing else (`benches/load`). With `WORK_US=50`, each request
//! takes the server 50 microseconds of CPU time, so that it is the limit of any client.
//!
//! ```sh
//! cargo run --release -p proactor-cli --example http -- serve --protocol http
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use proactor::{Input, Needs, Outbox, Protocol};

/// A request as wrk sends it.
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

/// The longest line of a request.
const LINE_MAX: usize = 8192;

struct Http {
    /// How long the server works for each request.
    work: Duration,
}

impl Protocol for Http {
    fn needs() -> Needs {
        Needs::NOTHING
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(line) = input.line(LINE_MAX) {
            // An empty line ends a request without a body.
            if line.trim_ascii().is_empty() {
                let begun = Instant::now();
                while begun.elapsed() < self.work {}
                out.send(RESPONSE);
            }
        }
    }
}

fn main() -> ExitCode {
    let asked = std::env::var("WORK_US").map_or(0, |n| n.parse().expect("WORK_US is a number"));
    let work = Duration::from_micros(asked);
    proactor_cli::main_with(|registry| {
        registry.add("http", move |_peer| Http { work }).example(REQUEST, RESPONSE);
    })
}
