//! What a program inherits from its parent, and which signals end it.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use proactor::Model;
use proactor_models::ALL;

use support::server::{PROACTOR, REACTOR};
use support::{Client, Launch, io_uring_refused};

/// A server of each model that works here, as two programs run it.
fn servers() -> impl Iterator<Item = Launch> {
    let works = |model: &Model| *model != Model::URING || io_uring_refused().is_none();
    let proactor = ALL.into_iter().filter(works).map(|model| {
        Launch::new(PROACTOR, &["serve", "--model", model.name(), "--listen", "127.0.0.1:0"])
    });
    proactor.chain([Launch::new(REACTOR, &["--listen", "127.0.0.1:0"])])
}

#[test]
fn signals_that_the_parent_has_blocked_drain_a_server_of_every_model() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for launch in servers() {
            let server = launch.with_signals_blocked().start();
            let client = Client::connect(server.address());
            client.ping();
            server.process.signal(signal);
            client.hear_end();
            drop(client);
            server.wait().assert_drained();
        }
    }
}

#[test]
fn an_interrupt_that_the_parent_ignores_stays_ignored() {
    for launch in servers() {
        let server = launch.ignoring(libc::SIGINT).start();
        server.process.signal(libc::SIGINT);
        Client::connect(server.address()).ping();
        server.drain();
    }
}
