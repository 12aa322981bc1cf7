//! Running the operator's commands, whatever engine drives the connections.

use std::ops::ControlFlow;

use super::{Command, Console, Row};
use crate::counters::Counters;
use crate::limits::Ended;

/// A server as its console sees it.
pub trait Inspect {
    /// Prints what protocols have sent to the operator since the last call.
    fn show_messages(&mut self, console: &mut Console);

    /// Returns the number of connections.
    fn count(&self) -> usize;

    /// Returns a row for each connection, in any order.
    fn rows(&mut self, console: &Console) -> Vec<Row>;

    /// Returns what was counted until now.
    fn counters(&self) -> Counters;

    /// Queues `line` for the connection of this number, after everything that it is owed.
    fn send_to(&mut self, number: u64, line: Vec<u8>) -> Delivery;

    /// Queues `line` for every connection. Returns how many will receive it.
    fn send_to_all(&mut self, line: Vec<u8>) -> usize;

    /// Closes the connection of this number at once. Returns whether there is one.
    fn kick(&mut self, number: u64) -> bool;

    /// Returns true if the server drains already.
    fn is_draining(&self) -> bool;

    /// Starts to drain the server.
    fn drain(&mut self);
}

/// What happens to a line for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It will be sent.
    Sent,
    /// It is dropped: the connection is ending.
    Ending,
    /// There is no such connection.
    NotFound,
}

impl Console {
    /// Prints the messages to the operator, and runs the commands that were read. Breaks if the
    /// operator ends the server at once.
    pub fn serve(&mut self, server: &mut impl Inspect) -> ControlFlow<Ended> {
        server.show_messages(self);
        while let Some(command) = self.next_command() {
            match command {
                Ok(Command::Quit) => {
                    self.print();
                    return ControlFlow::Break(Ended::AtOnce);
                }
                Ok(command) => self.execute(command, server),
                Err(complaint) => self.say(&complaint),
            }
            server.show_messages(self); // Closing a connection may have caused some.
        }
        self.flush();
        ControlFlow::Continue(())
    }

    fn execute(&mut self, command: Command, server: &mut impl Inspect) {
        match command {
            Command::List => self.list(server.rows(self)),
            Command::Stats => self.stats(&server.counters()),
            Command::Help => self.help(),
            Command::Say(line) => {
                let reached = server.send_to_all(line);
                self.say(&format!("sent to {}", connections(reached)));
            }
            Command::SendTo(number, line) => match server.send_to(number, line) {
                Delivery::Sent => {}
                Delivery::Ending => {
                    self.say(&format!("connection {number} is ending: nothing more is sent"));
                }
                Delivery::NotFound => self.say(&not_found(number)),
            },
            Command::Kick(number) if server.kick(number) => self.say(&format!("kicked {number}")),
            Command::Kick(number) => self.say(&not_found(number)),
            Command::Drain if server.is_draining() => self.say("draining already"),
            Command::Drain => {
                self.say(&format!("draining: {} to finish", connections(server.count())));
                server.drain();
            }
            Command::Quit => unreachable!("`serve` returns at this command"),
        }
    }
}

fn connections(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

fn not_found(number: u64) -> String {
    format!("no connection {number}: `list` shows all connections")
}
