//! Tests a protocol without a socket: in every way to cut its input, and as time passes.

use std::time::Duration;

use proactor::testing::{Driver, every_split};
use proactor::{Input, Outbox, Protocol};

/// Sends each line back in upper case, and ends after half a minute without one.
struct Shout;

const IDLE: Duration = Duration::from_secs(30);

impl Protocol for Shout {
    fn open(&mut self, out: &mut Outbox<'_>) {
        out.set_timer(IDLE);
    }

    fn data(&mut self, input: &mut Input<'_>, out: &mut Outbox<'_>) {
        while let Some(mut line) = input.line(1024) {
            line.make_ascii_uppercase();
            out.send(line);
            out.set_timer(IDLE);
        }
    }

    fn timer(&mut self, out: &mut Outbox<'_>) {
        out.finish();
    }
}

/// What would be tests of your program.
pub(crate) fn check() {
    let done = every_split(|_peer| Shout, b"ab\n\ncd\nrest");
    assert_eq!((&done.sent[..], done.finished), (&b"AB\n\nCD\n"[..], true));

    let mut driver = Driver::open(|_peer| Shout);
    driver.advance(Duration::from_secs(29));
    driver.receive(b"a\n");
    driver.advance(Duration::from_secs(29));
    assert!(!driver.take().finished);
    driver.advance(Duration::from_secs(1));
    assert!(driver.take().finished);
}

fn main() {
    check();
    println!("all is well");
}
