//! The two phases of a receive, in system calls: what `proactor models` and `kernel-notes.md` say
//! of each model is what it makes.
//!
//! A fixed number of messages goes to and fro. What a longer conversation counts beyond a shorter
//! one is the messages' alone: no accept, no close and no end is in it.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use proactor::Model;
use proactor_models::{ALL, NONBLOCKING};
use support::server::{Exit, PROACTOR};
use support::{Client, Launch, io_uring_refused, skip};

/// Messages in the shorter conversation.
const FEW: u64 = 50;
/// Messages beyond those in the longer one.
const MORE: u64 = 500;

/// The models that can serve here.
fn models() -> impl Iterator<Item = Model> {
    ALL.into_iter().filter(|&model| match io_uring_refused() {
        Some(reason) if model == Model::URING => {
            skip(&reason);
            false
        }
        _ => true,
    })
}

/// Serves one client that echoes `messages` messages. Returns none if the model does not work
/// here.
fn converse(model: Model, options: &[&str], messages: u64) -> Option<Exit> {
    let launch = Launch::new(PROACTOR, &["serve", "--listen", "127.0.0.1:0", "--stats"]);
    let launch = launch.args(&["--model", model.name()]).args(options);
    let server = match launch.try_start() {
        Ok(server) => server,
        Err(exit) if exit.stderr.contains("unsupported") => {
            skip(&format!("{model} is not there"));
            return None;
        }
        Err(exit) => panic!("{model} does not serve: {exit:?}"),
    };
    let client = Client::connect(server.address());
    for _ in 0..messages {
        client.say(&[b'x'; 64]);
        client.hear(&[b'x'; 64]);
    }
    client.finish();
    client.hear_end();
    Some(server.drain())
}

/// What so many messages add to a counter.
struct Added(Exit, Exit);

impl Added {
    fn by_messages(model: Model, options: &[&str]) -> Option<Added> {
        Some(Added(converse(model, options, FEW)?, converse(model, options, FEW + MORE)?))
    }

    fn to(&self, counter: &str) -> u64 {
        self.1.counter(counter).saturating_sub(self.0.counter(counter))
    }

    /// How often a message adds to it, to the nearest whole number: that a wait was ended by
    /// something else is possible, and rare.
    fn per_message(&self, counter: &str) -> u64 {
        (self.to(counter) + MORE / 2) / MORE
    }
}

/// The calls that a model claims to make for a message, by name; none if it gives no number.
fn claimed(model: Model) -> Option<Vec<&'static str>> {
    let (number, names) = proactor_models::facts(model).calls.split_once(": ")?;
    let names: Vec<_> = names.split(", ").collect();
    assert_eq!(number.parse(), Ok(names.len()), "{model}: as many names as calls");
    Some(names)
}

#[test]
fn every_model_makes_the_calls_for_a_message_that_it_claims_to_make() {
    for model in models() {
        let (Some(names), Some(added)) = (claimed(model), Added::by_messages(model, &[])) else {
            continue;
        };
        assert_eq!(added.per_message("calls"), names.len() as u64, "{model}: {names:?}");
        assert_eq!((added.to("receives"), added.to("sends")), (MORE, MORE), "{model}");
        // Phase one is in a call of its own, unless the thread sleeps in the receive itself.
        if names[0] != "recv" {
            assert_eq!(added.per_message("iterations"), 1, "{model} waits once for a message");
        }
    }
}

/// Only from 5.19 on: before, a send always completes, and whether that ends a wait of its own or
/// comes with the next message is the network's choice.
#[test]
fn on_a_ring_one_call_carries_both_phases() {
    if let Some(reason) = io_uring_refused() {
        return skip(&reason);
    }
    // Of a multishot receive only the first is submitted. Before 6.0 each is, and before 5.7 a poll
    // before each operation.
    let tiers =
        [("5.6", 4), ("5.7", 2), ("5.11", 2), ("5.19", 2), ("6.0", 1), ("6.1", 1), ("6.12", 1)];
    for (kernel, operations) in tiers {
        let added = Added::by_messages(Model::URING, &["--kernel", kernel]);
        let added = added.expect("it is there");
        assert_eq!(added.per_message("submitted"), operations, "as on {kernel}");
        let (calls, skips) =
            (added.per_message("calls"), !["5.6", "5.7", "5.11"].contains(&kernel));
        assert!(calls == 1 || calls == 2 && !skips, "as on {kernel}: {calls} calls for a message");
    }
}

#[test]
fn nonblocking_tries_every_socket_in_every_round() {
    let Some(exit) = converse(NONBLOCKING, &["--idle-sleep", "1ms"], FEW) else { return };
    let (calls, rounds) = (exit.counter("calls"), exit.counter("iterations"));
    // The listener and the stop signal are tried too; the drain's last rounds have no listener.
    assert!(rounds >= FEW, "{rounds} rounds: no message is answered before its round");
    assert!(calls >= 2 * rounds, "{calls} calls in {rounds} rounds");
}
