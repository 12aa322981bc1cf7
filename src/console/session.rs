//! Running the operator's commands, whatever engine drives the connections.

use std::ops::ControlFlow;

use super::command::HELP;
use super::{Command, Console, Row, view};
use crate::counters::Counters;
use crate::limits::Ended;

/// A server as its console sees it.
pub trait Inspect {
    /// Prints what protocols have sent to the operator since the last call.
    fn show_messages(&mut self, console: &mut Console);

    /// Returns a row for each connection, in any order.
    fn rows(&mut self) -> Vec<Row>;

    /// Returns what was counted until now.
    fn counters(&self) -> Counters;

    /// Queues `line` for the connection of this number, or for every one, after everything that it
    /// is owed. Returns for each whether it will be sent: not if the connection is ending.
    fn send(&mut self, number: Option<u64>, line: Vec<u8>) -> Vec<bool>;

    /// Closes the connection of this number at once. Returns whether there is one.
    fn kick(&mut self, number: u64) -> bool;

    /// Starts to drain the server. Returns how many connections are to finish; `None` if it drains
    /// already.
    fn drain(&mut self) -> Option<usize>;
}

impl Console {
    /// Prints the messages to the operator, and runs the commands that were read. Breaks if the
    /// operator ends the server at once.
    pub fn serve(&mut self, server: &mut impl Inspect) -> ControlFlow<Ended> {
        server.show_messages(self);
        while let Some(command) = self.typed.pop_front() {
            if command == Ok(Command::Quit) {
                self.print();
                return ControlFlow::Break(Ended::AtOnce);
            }
            let text = command.map_or_else(Some, |command| self.execute(command, server));
            text.iter().for_each(|text| self.say(text));
            server.show_messages(self); // Closing a connection may have caused some.
        }
        self.flush();
        ControlFlow::Continue(())
    }

    /// Runs a command. Returns what the operator is to read, if anything.
    fn execute(&self, command: Command, server: &mut impl Inspect) -> Option<String> {
        let not_found = |number| format!("no connection {number}: `list` shows all connections");
        Some(match command {
            Command::List => view::list(server.rows(), &self.listeners),
            Command::Stats => view::stats(&server.counters()),
            Command::Help => HELP.trim_end().to_owned(),
            Command::Say(line) => {
                let sent = server.send(None, line).into_iter().filter(|&sent| sent);
                format!("sent to {}", view::connections(sent.count()))
            }
            Command::SendTo(number, line) => match server.send(Some(number), line).first() {
                Some(true) => return None,
                Some(false) => format!("connection {number} is ending: nothing more is sent"),
                None => not_found(number),
            },
            Command::Kick(number) if server.kick(number) => format!("kicked {number}"),
            Command::Kick(number) => not_found(number),
            Command::Drain => match server.drain() {
                Some(count) => format!("draining: {} to finish", view::connections(count)),
                None => "draining already".to_owned(),
            },
            Command::Quit => unreachable!("`serve` returns at this command"),
        })
    }
}
