//! What the operator's commands come to, however the connections are driven.

use super::{Command, Console, Order, Row};
use crate::counters::Counters;

/// Connections that an operator attends to.
pub trait Inspect {
    /// Shows what protocols have told the operator since this was last called.
    fn show_messages(&mut self, console: &mut Console);

    /// How many connections there are.
    fn count(&self) -> usize;

    /// A row for each of them, in any order.
    fn rows(&mut self, console: &Console) -> Vec<Row>;

    /// What was counted until now.
    fn counters(&self) -> Counters;

    /// Has `line` said to the connection of this number, after all that it is owed.
    fn send_to(&mut self, number: u64, line: Vec<u8>) -> Delivery;

    /// Has `line` said to everyone; answers how many will hear it.
    fn send_to_all(&mut self, line: Vec<u8>) -> usize;

    /// Closes the connection of this number at once; answers whether it is there.
    fn kick(&mut self, number: u64) -> bool;
}

/// What becomes of a line for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It will be sent.
    Sent,
    /// It is dropped: nothing more is said to that connection.
    Ending,
    /// There is no such connection.
    NotFound,
}

impl Console {
    /// Shows the operator what was said to it, and does what it has typed. Stops at an order, which
    /// is the driver's to carry out, and is to be called again until there is none. `ending` says
    /// whether the server is on its way to its end.
    pub fn attend(&mut self, attended: &mut impl Inspect, ending: bool) -> Option<Order> {
        attended.show_messages(self);
        while let Some(command) = self.next_command() {
            match command {
                Ok(Command::Drain) if ending => self.say("draining already"),
                Ok(Command::Drain) => {
                    self.say(&format!("draining: {} to finish", connections(attended.count())));
                    return Some(Order::Drain);
                }
                Ok(Command::Quit) => {
                    self.print();
                    return Some(Order::Quit);
                }
                Ok(command) => self.obey(command, attended),
                Err(complaint) => self.say(&complaint),
            }
            attended.show_messages(self); // Who is kicked leaves.
        }
        self.flush();
        None
    }

    fn obey(&mut self, command: Command, attended: &mut impl Inspect) {
        match command {
            Command::List => self.list(attended.rows(self)),
            Command::Stats => self.stats(&attended.counters()),
            Command::Help => self.help(),
            Command::Say(line) => {
                let told = attended.send_to_all(line);
                self.say(&format!("said to {}", connections(told)));
            }
            Command::Tell(number, line) => match attended.send_to(number, line) {
                Delivery::Sent => {}
                Delivery::Ending => {
                    self.say(&format!("connection {number} is ending: it hears no more"));
                }
                Delivery::NotFound => self.say(&nobody(number)),
            },
            Command::Kick(number) if attended.kick(number) => self.say(&format!("kicked {number}")),
            Command::Kick(number) => self.say(&nobody(number)),
            Command::Drain | Command::Quit => unreachable!("an order is its driver's"),
        }
    }
}

fn connections(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

fn nobody(number: u64) -> String {
    format!("no connection {number}: `list` shows who is here")
}
