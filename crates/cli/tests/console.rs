//! An operator at work: what is typed at a real server, on every model that has a console.
//!
//! A model without a console gives the reason, from the table that refuses it (`Model::missing`).

#[allow(dead_code, reason = "each test crate uses its part")]
mod support;
#[macro_use]
#[path = "support/models.rs"]
mod models;

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use models::Model;
use proactor::model::Ability;
use support::server::{PROACTOR, Server};
use support::terminal::Terminal;
use support::{Client, Launch, Options, eventually};

/// Whether the table of the models says that this one can do that.
fn can(model: Model, ability: Ability) -> bool {
    let model = proactor_models::find(model.0).expect("a name of the table");
    model.info().missing(ability).is_none()
}

/// A server of this protocol with a console that can be typed at.
fn attended(model: Model, protocol: &'static str) -> Launch {
    model.serve(protocol).args(&["--console"]).typed()
}

on_every_model!({
    an_operator_lists_says_and_kicks,
    a_peer_on_a_unix_socket_is_listed_as_unix,
    what_is_under_way_is_shown,
    a_client_that_reads_nothing_does_not_block_the_operator,
    drain_ends_the_server_with_success,
    quit_ends_the_server_at_once,
    the_end_of_what_is_typed_leaves_it_serving,
    commands_may_come_from_a_file,
    an_input_that_is_already_non_blocking_is_waited_for,
    all_clients_are_served_while_no_answer_is_read,
    the_answers_cannot_be_written_and_everybody_is_served,
    talk_is_answered_by_number,
    the_last_leave_is_announced,
    a_terminal_is_prompted_and_left_as_it_was,
} on
    uring: Model("uring", None),
    uring_as_on_6_0: Model("uring", Some("6.0")),
    uring_as_on_5_19: Model("uring", Some("5.19")),
    uring_as_on_5_7: Model("uring", Some("5.7")),
    uring_as_on_5_6: Model("uring", Some("5.6")),
    epoll: Model("epoll", None),
    epoll_et: Model("epoll-et", None),
    poll: Model("poll", None),
    select: Model("select", None),
    epoll_oneshot: Model("epoll-oneshot", None),
    sigio: Model("sigio", None),
    nonblocking: Model("nonblocking", None),
    coroutine: Model("coroutine", None),
    thread: Model("thread", None),
    blocking: Model("blocking", None),
);

#[test]
fn every_model_has_a_console_or_refuses_it_with_a_reason() {
    for model in proactor_models::ALL {
        let tested = MODELS.iter().any(|tested| tested.0 == model.name());
        let Some(reason) = model.info().missing(Ability::Console) else {
            assert!(tested, "{model} is not held against the scenarios");
            continue;
        };
        assert!(!tested, "{model} lacks a console: {reason}");
        for (args, what) in [
            (["--console"].as_slice(), "--console"),
            (&["--protocol", "talk"], "the protocol talk"),
            (&["--listen", "127.0.0.1:0=talk"], "the protocol talk"),
        ] {
            let launch = Launch::new(PROACTOR, &["serve", "--model", model.name()]);
            let exit = launch.args(args).run();
            let expected = format!("error: {what} does not work with {model}: {reason}");
            assert_eq!(exit.code(), Some(2), "{exit:?}");
            assert_eq!(exit.stderr.trim_end(), expected);
        }
    }
}

#[test]
fn help_names_the_console_and_talk() {
    let exit = Launch::new(PROACTOR, &["help", "serve"]).run();
    let text = exit.stdout.join("\n");
    assert!(text.contains("--console") && text.contains("talk"), "{text}");
}

/// Types `list` until it shows so many, and answers their rows as words.
fn rows(server: &mut Server, count: usize) -> Vec<Vec<String>> {
    eventually(&format!("{count} connections are listed"), || {
        server.type_in("list\n");
        let mut rows = Vec::new();
        loop {
            let line = server.line().expect("an answer");
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            match words[..].first().map(String::as_str) {
                Some("no") if line == "no connections" => break,
                Some("no") => {}
                _ if line.ends_with("connection") || line.ends_with("connections") => break,
                _ => rows.push(words),
            }
        }
        (rows.len() == count).then_some(rows)
    })
}

/// Types `stats`; fails unless these are among its lines, with single blanks.
fn assert_counted(server: &mut Server, expected: &[&str]) {
    server.type_in("stats\n");
    let lines: Vec<String> = std::iter::from_fn(|| server.line())
        .take(1 + proactor::counters::Counters::default().named().len())
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in expected {
        assert!(lines.iter().any(|other| other == line), "{line}: {lines:?}");
    }
}

fn an_operator_lists_says_and_kicks(model: Model) {
    if !can(model, Ability::Crowd) {
        return an_operator_lists_the_connection_and_kicks_it_for_the_next(model);
    }
    let mut server = attended(model, "echo").start();
    server.type_in("list\nlsit\nfrobnicate\n");
    server.assert_says(&[
        "no connections",
        "no command `lsit`: did you mean `list`?",
        "no command `frobnicate`: one of list, say, tell, kick, stats, drain, quit, help",
    ]);
    let clients: Vec<Client> = (0..3)
        .map(|_| {
            let client = Client::connect(server.address());
            client.ping();
            client
        })
        .collect();
    // Number, key, listener, protocol, peer, age, in, out.
    let listener = server.address().to_string();
    let all = eventually("every answer was sent", || {
        let rows = rows(&mut server, 3);
        rows.iter().all(|row| row[6..11].join(" ") == "s 4 B 4 B").then_some(rows)
    });
    for (at, (row, client)) in all.iter().zip(&clients).enumerate() {
        let row_start = format!("{} {at}.0 {listener} echo {}", at + 1, client.local());
        assert_eq!(row[..5].join(" "), row_start);
    }
    server.type_in("say hello  you\n2 only you\ntell 3 and you\n");
    server.assert_says(&["sent to 3 connections"]);
    clients[0].hear(b"hello  you\n");
    clients[1].hear(b"hello  you\nonly you\n");
    clients[2].hear(b"hello  you\nand you\n");
    server.type_in("kick 2\nkick 9\n9 hello\n");
    let unknown = "no connection 9: `list` shows all connections";
    server.assert_says(&["kicked 2", unknown, unknown]);
    // The end, or a reset.
    let (heard, _) = clients[1].hear_all();
    assert_eq!(heard, b"");
    let left: Vec<String> = rows(&mut server, 2).into_iter().map(|mut row| row.remove(0)).collect();
    assert_eq!(left, ["1", "3"]);
    [&clients[0], &clients[2]].into_iter().for_each(Client::ping);
    assert_counted(&mut server, &["accepted 3", "closed 1", "received bytes 20"]);
    drop(clients);
    server.drain();
}

fn an_operator_lists_the_connection_and_kicks_it_for_the_next(model: Model) {
    let mut server = attended(model, "echo").start();
    let listener = server.address().to_string();
    let clients: Vec<Client> = (0..3).map(|_| Client::connect(server.address())).collect();
    for (at, client) in clients.iter().enumerate() {
        client.ping();
        let row = eventually("its answer was sent", || {
            let row = rows(&mut server, 1).remove(0);
            (row[6..11].join(" ") == "s 4 B 4 B").then_some(row)
        });
        let number = at + 1;
        let row_start = format!("{number} 0.{at} {listener} echo {}", client.local());
        assert_eq!(row[..5].join(" "), row_start);
        server.type_in(&format!("say hello  you\n{number} only you\n{} later\n", number + 1));
        server.assert_says(&[
            "sent to 1 connection",
            &format!("no connection {}: `list` shows all connections", number + 1),
        ]);
        client.hear(b"hello  you\nonly you\n");
        server.type_in(&format!("kick {number}\n"));
        server.assert_says(&[&format!("kicked {number}")]);
        assert_eq!(client.hear_all().0, b"");
    }
    rows(&mut server, 0);
    assert_counted(&mut server, &["accepted 3", "closed 3", "received bytes 12"]);
    drop(clients);
    server.drain();
}

fn a_peer_on_a_unix_socket_is_listed_as_unix(model: Model) {
    let folder = tempfile::tempdir().expect("a folder");
    let unix = format!("unix:{}", folder.path().join("socket").display());
    let launch = Launch::new(PROACTOR, &model.args("echo"));
    let mut server = launch.args(&["--listen", &unix, "--console"]).typed().start();
    let client = Client::connect(server.address());
    client.ping();
    let row = rows(&mut server, 1).remove(0);
    assert_eq!(row[..5].join(" "), format!("1 0.0 {unix} echo unix"));
    drop(client);
    server.drain();
}

fn what_is_under_way_is_shown(model: Model) {
    let mut server = attended(model, "echo").start();
    let client = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    client.ping();
    let under_way = match model.0 {
        "uring" | "thread" | "blocking" => "recv",
        "coroutine" => "awaits read",
        _ => "watched: read",
    };
    eventually("it is heard again", || {
        let row = rows(&mut server, 1).remove(0).join(" ");
        (row.contains("receive") && row.contains(under_way)).then_some(())
    });
    // A client that reads nothing is owed output, and in the end is no longer received from.
    client.say_until_stuck(&vec![b'x'; 64 << 20]);
    let stuck = if can(model, Ability::Duplex) { "paused" } else { "B send –" };
    let row = eventually("it is not heard", || {
        let row = rows(&mut server, 1).remove(0).join(" ");
        row.ends_with(stuck).then_some(row)
    });
    assert!(row.contains("send ") && !row.contains("receive"), "{row}");
    server.type_in("kick 1\n");
    server.assert_says(&["kicked 1"]);
    rows(&mut server, 0);
    drop(client);
    server.drain();
}

fn a_client_that_reads_nothing_does_not_block_the_operator(model: Model) {
    let mut server = attended(model, "echo").start();
    let stuck = Client::connect_with(server.address(), Options::SMALL_RECEIVE);
    stuck.ping();
    stuck.say_until_stuck(&vec![b'x'; 64 << 20]);
    if can(model, Ability::Crowd) {
        let client = Client::connect(server.address());
        client.ping();
        server.type_in("say hello\n2 and on\n");
        server.assert_says(&["sent to 2 connections"]);
        client.hear(b"hello\nand on\n");
    } else {
        server.type_in("say hello\n");
        server.assert_says(&["sent to 1 connection"]);
    }
    server.type_in("quit\n");
    assert_eq!(server.wait().code(), Some(1));
    drop(stuck);
}

fn drain_ends_the_server_with_success(model: Model) {
    let mut server = attended(model, "echo").start();
    let client = Client::connect(server.address());
    client.ping();
    server.type_in("drain\ndrain\nsay late\n1 late\n");
    server.assert_says(&[
        "draining: 1 connection to finish",
        "draining already",
        "sent to 0 connections",
        "connection 1 is ending: nothing more is sent",
    ]);
    client.hear_end();
    drop(client);
    let exit = server.wait();
    assert_eq!((exit.code(), exit.stdout.len()), (Some(0), 0), "{exit:?}");
}

fn quit_ends_the_server_at_once(model: Model) {
    let mut server = attended(model, "echo").start();
    let client = Client::connect(server.address());
    client.ping();
    server.type_in("quit\nlist\n");
    let exit = server.wait();
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert!(exit.stderr.ends_with("error: stopped at once\n"), "{exit:?}");
    assert_eq!(client.hear_all().0, b"");
}

fn the_end_of_what_is_typed_leaves_it_serving(model: Model) {
    let mut server = attended(model, "echo").start();
    server.type_in("lis");
    server.type_in("t");
    server.end_typing();
    server.assert_says(&["no connections"]);
    let client = Client::connect(server.address());
    client.ping();
    server.process.assert_idle("when nothing more is typed");
    drop(client);
    let exit = server.terminate();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
    assert_eq!(
        exit.stderr.matches("the input has ended; the server goes on").count(),
        1,
        "{exit:?}"
    );
}

fn commands_may_come_from_a_file(model: Model) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"not read\nlist\nsay hello\n").expect("space on the disk");
    file.seek(std::io::SeekFrom::Start(9)).expect("a file can be sought in");
    let server = model.serve("echo").args(&["--console"]).stdin(file).start();
    server.assert_says(&["no connections", "sent to 0 connections"]);
    Client::connect(server.address()).ping();
    server.process.assert_idle("when the file is read");
    server.drain();
    let null = File::open("/dev/null").expect("it is there");
    let server = model.serve("echo").args(&["--console"]).stdin(null).start();
    Client::connect(server.address()).ping();
    server.process.assert_idle("when there is nothing to read");
    server.drain();
}

fn an_input_that_is_already_non_blocking_is_waited_for(model: Model) {
    let (mut ours, theirs) = UnixStream::pair().expect("two descriptors");
    theirs.set_nonblocking(true).expect("a mode can be set");
    let stdin = OwnedFd::from(theirs);
    let server = model.serve("echo").args(&["--console"]).stdin(stdin).start();
    Client::connect(server.address()).ping();
    server.process.assert_idle("while nothing is typed");
    for _ in 0..3 {
        ours.write_all(b"say hello\n").expect("it reads what is typed");
        server.assert_says(&["sent to 0 connections"]);
    }
    server.drain();
}

/// Asks for more answers than anything but a reader could take.
fn ask_for_much(server: &mut Server) {
    (0..50).for_each(|_| server.type_in(&"help\n".repeat(100)));
    server.type_in("say done\n");
}

fn all_clients_are_served_while_no_answer_is_read(model: Model) {
    let mut server = attended(model, "echo").unheard(false).start();
    let client = Client::connect(server.address());
    client.ping();
    ask_for_much(&mut server);
    client.hear(b"done\n");
    client.ping();
    drop(client);
    let exit = server.terminate();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
}

fn the_answers_cannot_be_written_and_everybody_is_served(model: Model) {
    let mut server = attended(model, "echo").unheard(true).start();
    let client = Client::connect(server.address());
    client.ping();
    server.type_in("help\nsay one\n");
    client.hear(b"one\n");
    client.ping();
    drop(client);
    let exit = server.terminate();
    assert_eq!(exit.code(), Some(0), "{exit:?}");
}

fn the_last_leave_is_announced(model: Model) {
    let mut server = model.serve("talk").typed().start();
    let client = Client::connect(server.address());
    server.assert_says(&["* 1 joined"]);
    server.type_in("drain\n");
    server.assert_says(&["draining: 1 connection to finish"]);
    client.hear_end();
    drop(client);
    let exit = server.wait();
    assert_eq!((exit.code(), exit.stdout), (Some(0), vec!["* 1 left".to_owned()]));
}

fn talk_is_answered_by_number(model: Model) {
    if !can(model, Ability::Crowd) {
        return talk_is_answered_one_after_another(model);
    }
    // Without --console: it is talk that wants one.
    let server = model.serve("talk").args(&["--listen", "127.0.0.1:0=talk"]).typed();
    let mut server = server.start();
    let (one, other) = (server.address().clone(), server.listening[1].address.clone());
    let first = Client::connect(&one);
    server.assert_says(&["* 1 joined"]);
    let second = Client::connect(&other);
    server.assert_says(&["* 2 joined"]);
    first.say(b"hel");
    second.say(b"from \x1b[2Jafar\r\n\xff\n");
    server.assert_says(&["[2] from \\u001b[2Jafar", "[2] \\xff"]);
    first.say(b"lo\n");
    server.assert_says(&["[1] hello"]);
    server.type_in("2 to the second\n1 to the first\nsay to both\n");
    server.assert_says(&["sent to 2 connections"]);
    first.hear(b"to the first\nto both\n");
    second.hear(b"to the second\nto both\n");
    first.say(b"last words");
    first.finish();
    server.assert_says(&["[1] last words", "* 1 left"]);
    first.hear_end();
    server.type_in("kick 2\n");
    server.assert_says(&["kicked 2", "* 2 left"]);
    // After the end of the operator input, new clients are served, and their lines are shown.
    server.end_typing();
    let third = Client::connect(&one);
    third.say(b"hello?\nquit\n");
    third.hear_end();
    server.assert_says(&["* 3 joined", "[3] hello?", "* 3 left"]);
    drop(third);
    server.drain();
}

fn talk_is_answered_one_after_another(model: Model) {
    let mut server = model.serve("talk").typed().start();
    let [first, second] = [(); 2].map(|()| Client::connect(server.address()));
    server.assert_says(&["* 1 joined"]);
    second.say(b"me too\n");
    first.say(b"hello\nlast words");
    server.assert_says(&["[1] hello"]);
    server.type_in("1 to the first\n2 to the second\n");
    server.assert_says(&["no connection 2: `list` shows all connections"]);
    first.hear(b"to the first\n");
    first.finish();
    server.assert_says(&["[1] last words", "* 1 left", "* 2 joined", "[2] me too"]);
    first.hear_end();
    server.type_in("2 to the second\nkick 2\n");
    server.assert_says(&["kicked 2", "* 2 left"]);
    server.drain();
}

fn a_terminal_is_prompted_and_left_as_it_was(model: Model) {
    let mut args = model.args("talk");
    args.extend(["--listen", "127.0.0.1:0"]);
    let mut terminal = Terminal::start(PROACTOR, &args);
    let flags = terminal.flags();
    terminal.see("listening on ");
    let address = terminal.see(" (");
    assert!(terminal.see("\r\n> ").ends_with("talk)"), "the prompt comes when it listens");
    terminal.press("list\nhelp\n"); // Two lines: a terminal gives them one at a time.
    terminal.see("no connections\r\n> ");
    terminal.see("this\r\n> ");
    // The loop and the printer: no other thread reads the terminal. (And the one of blocking.)
    assert_eq!(terminal.process().threads(), if model.0 == "blocking" { 3 } else { 2 });
    let client = Client::connect(&support::Address::parse(&address));
    client.say(b"hello\n");
    terminal.see("\r\x1b[K* 1 joined\r\n");
    terminal.see("[1] hello\r\n> ");
    terminal.press("1 and ");
    client.say(b"while you type\n");
    terminal.see("\r\x1b[K[1] while you type\r\n> ");
    terminal.press("you\n");
    client.hear(b"and you\n");
    assert_eq!(terminal.flags(), flags, "the shell has the same terminal");
    terminal.press("\x04"); // Ctrl-D ends what is typed.
    client.say(b"still there?\n");
    terminal.see("[1] still there?\r\n");
    drop(client);
    terminal.see("* 1 left\r\n");
    assert_eq!(terminal.flags(), flags);
    terminal.process().signal(libc::SIGTERM);
    assert_eq!(terminal.wait(), Some(0));
}

#[test]
fn a_program_that_another_test_starts_has_neither_end_of_a_terminal() {
    let _terminal = Terminal::start(PROACTOR, &["serve", "--listen", "127.0.0.1:0"]);
    let mut list = Command::new("ls");
    let output = list.args(["-l", "/proc/self/fd"]).stdin(Stdio::null()).output();
    let files = String::from_utf8(output.expect("it runs").stdout).expect("ASCII");
    assert!(files.contains("/dev/null"), "{files}");
    assert!(!files.contains("/dev/ptmx") && !files.contains("/dev/pts/"), "{files}");
}
