//! `--peer NAME=COMMAND`: a server of another program, compared with the models.

use std::net::TcpListener;
use std::process::Command;

use proactor::os;
use proactor_compare::plan::{PeerServer, RECORDED};
use proactor_compare::server_process::{ServerCommand, ServerError};
use proactor_models::choose;

/// What stands in a command for the port.
const PORT: &str = "{port}";

/// Parses `NAME=COMMAND`.
///
/// # Errors
/// The name or the command is empty, or the name is that of a model.
pub(super) fn parse(text: &str) -> Result<PeerServer, String> {
    let (name, command) = text.split_once('=').unwrap_or((text, ""));
    let (name, command) = (name.trim(), command.trim());
    if name.is_empty() || command.is_empty() {
        return Err(format!("{text:?} is not NAME=COMMAND, as in 'mine=./server {PORT}'"));
    }
    if name == "all" || choose(name).is_ok() || name.ends_with(RECORDED) {
        return Err(format!("{name} is the name of a model: use another one"));
    }
    if name.starts_with('-') {
        return Err(format!("{name:?} would be taken for an option: use another name"));
    }
    Ok(PeerServer { name: name.to_owned(), command: command.to_owned() })
}

/// Returns the command that starts the server on one CPU.
///
/// # Errors
/// There is no port that the server could use.
pub(super) fn command(peer: &PeerServer, cpu: usize) -> Result<ServerCommand, ServerError> {
    let mut line = peer.command.clone();
    let mut address = None;
    if line.contains(PORT) {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let free = free.map_err(|error| ServerError(format!("no port is free: {error}")))?;
        line = line.replace(PORT, &free.port().to_string());
        address = Some(free.into());
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &line]);
    os::start_on_cpu(&mut command, cpu);
    Ok(ServerCommand { command, address, has_counters: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_name_of_its_own_and_a_command() {
        let peer = parse("mine=./server --port={port}").expect("it is well-formed");
        assert_eq!((&*peer.name, &*peer.command), ("mine", "./server --port={port}"));
        for wrong in ["mine", "mine=", "=x", "epoll=x", "auto=x", "all=x", "x+trace=x", "-x=x"] {
            parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn the_port_stands_where_the_command_names_it() {
        let start = |line: &str| {
            let peer = PeerServer { name: String::new(), command: line.to_owned() };
            command(&peer, 0).expect("a port is free")
        };
        let with = start("serve {port}");
        let port = with.address.expect("a port was given").to_string();
        let port = port.strip_prefix("127.0.0.1:").expect("an address of the loopback");
        assert_eq!(with.command.get_args().last().expect("a line"), &*format!("serve {port}"));
        assert!(start("serve").address.is_none());
    }
}
