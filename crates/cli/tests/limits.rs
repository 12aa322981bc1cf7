//! The limits of a server: what `--limits` prints, and that no client makes it use more.

#[allow(dead_code, unused_imports, reason = "each test crate uses its part")]
mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use proactor_models::ALL;
use support::server::PROACTOR;
use support::{Address, Launch, eventually, io_uring_refused};

/// Returns the limits of `serve` with these arguments.
fn limits(args: &[&str]) -> Value {
    let exit = Launch::new(PROACTOR, &["serve", "--limits", "--json"]).args(args).run();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
    serde_json::from_str(&exit.stdout.join("\n")).expect("JSON")
}

/// Returns the value of one limit.
fn limit(limits: &Value, section: &str, name: &str) -> u64 {
    let rows = limits["limits"].as_array().expect("a list").iter();
    let row = rows.clone().find(|row| row["section"] == section && row["name"] == name);
    row.and_then(|row| row["value"].as_u64()).unwrap_or_else(|| panic!("{section} {name}"))
}

#[test]
fn the_parts_of_the_user_memory_make_its_limit_on_every_model() {
    for model in ALL.map(|model| model.name()) {
        let args = ["--model", model, "--max-memory", "3G", "--max-connections", "1000"];
        let limits = limits(&args);
        let parts = ["program", "buffers", "connections", "queues"];
        let sum: u64 = parts.iter().map(|part| limit(&limits, "user memory", part)).sum();
        assert_eq!((sum, limit(&limits, "user memory", "in all")), (3 << 30, 3 << 30), "{model}");
    }
}

/// A model with a process or a thread for each connection has fewer connections by default, if the
/// memory permits no more; and its bound is the one that was asked for.
#[test]
fn without_a_limit_of_connections_there_are_as_many_as_the_memory_permits() {
    for model in ALL.map(|model| model.name()) {
        let limits = limits(&["--model", model, "--max-memory", "1G"]);
        let connections = limit(&limits, "connections", "--max-connections");
        let most = if model == "process" { 100..1000 } else { 5_000..10_001 };
        assert!(most.contains(&connections), "{model}: {connections}");
        assert_eq!(limit(&limits, "user memory", "in all"), 1 << 30, "{model}");
    }
}

#[test]
fn the_limits_say_what_is_given_up_and_what_the_kernel_holds() {
    let given_up = |args: &[&str]| {
        let limits = limits(args);
        let rows = limits["limits"].as_array().expect("a list").clone();
        assert_eq!(limit(&limits, "socket memory", "not sent"), 128 << 10);
        let of = |row: &&Value| row["section"] == "lock-down";
        rows.iter().filter(of).map(|row| row["value"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(given_up(&["--model", "epoll"]), [None; 3]);
    assert_eq!(given_up(&["--model", "epoll", "--lock-down"]), [None, Some(0), Some(0)]);
    if io_uring_refused().is_none() {
        let of_ring = given_up(&["--model", "uring"]);
        assert_eq!(of_ring[1..], [Some(0), None]);
        assert!(of_ring[0].is_none_or(|operations| (5..20).contains(&operations)), "{of_ring:?}");
        assert_eq!(given_up(&["--model", "uring", "--lock-down=off"]), [None; 3]);
    }
}

#[test]
fn a_limit_of_memory_below_what_the_connections_need_is_refused() {
    let args = ["serve", "--max-memory", "16M", "--max-connections", "10000"];
    let exit = Launch::new(PROACTOR, &args).run();
    assert_eq!(exit.code(), Some(2), "{exit:?}");
    assert!(exit.stderr.contains("--max-memory of 16.8 MB: 10,000 connections"), "{exit:?}");
}

/// Every protocol, and what a hostile client sends.
const HOSTILE: [(&str, &[u8]); 7] = [
    ("echo", &[b'x'; 16 << 10]),
    ("upper", &[b'x'; 16 << 10]),
    ("reply=a reply of some length", &[b'\n'; 16 << 10]),
    ("prefix", &[b'\n'; 16 << 10]),
    ("discard", &[b'x'; 16 << 10]),
    ("chargen", b"x"),
    ("chat", &[b'\n'; 16 << 10]),
];

/// Sends as much as the server takes, and reads nothing, until no client gets rid of any byte.
fn flood(clients: &mut [(TcpStream, &[u8])]) {
    let mut rounds_without_progress = 0;
    for _ in 0..300 {
        let mut progress = false;
        for (client, bytes) in &mut *clients {
            // An error means that the server has closed it, or takes no more for now.
            progress |= client.write(bytes).is_ok_and(|n| n > 16);
        }
        rounds_without_progress = if progress { 0 } else { rounds_without_progress + 1 };
        if rounds_without_progress == 10 {
            return;
        }
        // The pace of the attack: the server takes what it was sent. No assertion depends on it.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn connect(address: &Address) -> TcpStream {
    let SocketAddr::V4(_) = address.tcp() else { panic!("IPv4") };
    let client = TcpStream::connect(address.tcp()).expect("the server accepts");
    client.set_nonblocking(true).expect("it can");
    client
}

/// Attacks a server of this model with `each` clients for each protocol, and with members of a chat
/// that come and go. Returns what it may use, what it used at most, and what it used before the
/// attack and after it.
fn attack(model: &str, each: usize) {
    let most = 2 * each * HOSTILE.len();
    let memory = format!("{}M", 80 + if model == "process" { most * 9 / 8 } else { most / 8 });
    let most = most.to_string();
    let mut args = vec!["--model", model, "--max-connections", &most, "--max-memory", &memory];
    args.extend(["--drain-timeout", "100ms"]);
    let bound = limit(&limits(&args), "user memory", "in all");
    let listens: Vec<String> =
        HOSTILE.iter().map(|(protocol, _)| format!("127.0.0.1:0={protocol}")).collect();
    listens.iter().for_each(|listen| args.extend(["--listen", listen]));
    let server = Launch::new(PROACTOR, &["serve"]).args(&args).start();
    let before = server.process.resident();
    let mut clients: Vec<_> = (0..each)
        .flat_map(|_| HOSTILE.iter().zip(&server.listening))
        .map(|((_, bytes), address)| (connect(&address.address), *bytes))
        .collect();
    let mut most = 0;
    for _ in 0..2 {
        let chat = server.listening.last().expect("a chat");
        (0..each).for_each(|_| drop(connect(&chat.address)));
        flood(&mut clients);
        most = most.max(server.process.resident());
    }
    assert!(most as u64 <= bound, "{model}: {most} B are used, {bound} B may be");
    drop(clients);
    let mut after = 0;
    eventually(&format!("{model}: memory is given back"), || {
        after = server.process.resident();
        (after < before + (8 << 20)).then_some(())
    });
    println!("{model}: {before} B before, {most} B in the attack of {bound} B, {after} B after");
    server.terminate();
}

/// `ATTACK=300 cargo test -p proactor-cli --test limits -- --nocapture` attacks with 2,100 clients,
/// which fill gigabytes without a limit.
#[test]
fn no_protocol_on_any_model_makes_a_server_use_more_than_its_limit() {
    let clients = std::env::var("ATTACK").map_or(6, |clients| clients.parse().expect("a number"));
    for model in ALL.map(|model| model.name()) {
        match io_uring_refused() {
            Some(reason) if model == "uring" => support::skip(&reason),
            _ if model == "blocking" => {} // It serves one client.
            _ => attack(model, clients),
        }
    }
}
