//! The example `own_protocol`: a program of a few lines serves its own protocols on every model.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::path::Path;
use std::process::Command;

use support::server::PROACTOR;
use support::{Client, Launch, io_uring_refused, skip};

#[test]
fn an_own_protocol_is_served_on_every_model() {
    let program = Path::new(PROACTOR).with_file_name("examples").join("own_protocol");
    if !program.exists() {
        return skip("the example own_protocol is not built: `cargo test` without a filter does");
    }
    let program = program.to_str().expect("a path in UTF-8");
    for model in proactor_models::ALL.map(|model| model.name()) {
        if model == "uring"
            && let Some(reason) = io_uring_refused()
        {
            skip(&reason);
            continue;
        }
        let listeners = ["--listen", "127.0.0.1:0=shout", "--listen", "127.0.0.1:0=mark=> "];
        let args = ["serve", "--model", model];
        let server = Launch::new(program, &args).args(&listeners).start();
        let addresses = server.listening.iter().map(|one| one.address.clone());
        for (address, reply) in addresses.zip(["HELLO\n", "> hello\n"]) {
            let client = Client::connect(&address);
            client.say(b"hello\n");
            client.hear(reply.as_bytes());
        }
        server.terminate();
    }
}

#[test]
fn an_own_protocol_is_compared_by_its_example() {
    let program = Path::new(PROACTOR).with_file_name("examples").join("own_protocol");
    if !program.exists() {
        return skip("the example own_protocol is not built: `cargo test` without a filter does");
    }
    let args = ["compare", "--protocol", "shout", "--models", "poll", "-c", "2", "--blocks", "1"];
    let output = Command::new(program).args(args).output().expect("it was built");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&error));
    assert!(out.contains("2 connections, 5 B shout, depth 1"), "{out}");
}
