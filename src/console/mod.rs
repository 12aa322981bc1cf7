//! The operator's console: input lines become commands, and results become text.
//!
//! ```text
//!   bytes ──► lines ──► Command ──► driver of the connections ──► answer ──► Output
//! ```
//!
//! It waits for nothing and knows no connection. A driver passes the bytes of the input, however it
//! waits for them, and its connections as an [`Inspect`]. The command `list` is the counterpart of
//! Python's `selector.get_map()`.

mod command;
mod output;
mod session;
mod view;

pub use command::Command;
pub use session::Inspect;
pub use view::Row;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::buffer::Chunk;
use crate::os;
use crate::protocol::{Input, LINE_MAX, TOO_LONG, Untaken};
use output::Output;

/// What stands before the operator's line on a terminal.
const PROMPT: &str = "> ";
/// Takes an unfinished line off a terminal: to its first column, and erase (ECMA-48).
const ERASE: &str = "\r\x1b[K";

/// The most that is read at a time of what is typed.
const INPUT_SIZE: usize = 4096;

/// What a driver knows of a connection beside the connection.
#[derive(Debug, Clone, Default)]
pub struct SocketInfo {
    /// The address of its peer, if none was found when it was accepted.
    pub address: Option<String>,
    /// What is in flight, or waited for.
    pub doing: Vec<String>,
}

/// A listener, as the operator reads it.
#[derive(Debug, Clone)]
pub struct ListenerInfo {
    /// The address that it listens on.
    pub address: String,
    /// The name of its protocol.
    pub protocol: String,
}

/// The console of an operator.
#[derive(Debug)]
pub struct Console {
    input: OwnedFd,
    /// True once the input has ended.
    ended: bool,
    /// The beginning of a line that has not been typed to its end.
    untaken: Untaken,
    /// What was typed and not done yet: a command, or why it is none.
    typed: VecDeque<Result<Command, String>>,
    output: Output,
    /// The output of the commands of this iteration.
    answer: String,
    /// Whether to print a prompt: input and output are a terminal.
    prompts: bool,
    /// True exactly while the prompt is the last that was printed, and no line was typed behind
    /// it.
    prompting: bool,
    /// By the listener's number.
    listeners: Vec<ListenerInfo>,
}

impl Console {
    /// A console that reads from `input` and prints to `output`; to prompt is for terminals.
    /// `listeners` are the listeners, in the order in which the server has them.
    ///
    /// # Errors
    /// There can be no thread to print.
    pub fn new(
        input: OwnedFd,
        output: impl Write + Send + 'static,
        prompts: bool,
        listeners: Vec<ListenerInfo>,
    ) -> io::Result<Console> {
        Ok(Console {
            input,
            ended: false,
            untaken: Untaken::default(),
            typed: VecDeque::new(),
            output: Output::new(output)?,
            answer: String::new(),
            prompts,
            prompting: false,
            listeners,
        })
    }

    /// What it is typed at: a terminal, a pipe, a file. Shared with others, as a terminal is with
    /// the shell, so none of its flags may be changed; open as long as the console.
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Returns true if the input has ended, or the output cannot be written any more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes that were read from the input.
    pub fn input_read(&mut self, typed: Chunk) {
        let mut input = Input::new(typed, &mut self.untaken, usize::MAX);
        while let Some(line) = input.try_line(LINE_MAX) {
            self.prompting = false;
            match line {
                Ok(line) => self.typed.extend(command::parse(&line)),
                Err(_) => self.typed.push_back(Err(TOO_LONG.trim_end().to_owned())),
            }
        }
        input.leave(false, usize::MAX);
    }

    /// Reads the input once, if it is readable; never waits. Returns whether it was: one line may
    /// be followed by another.
    pub fn read(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let mut typed = [0; INPUT_SIZE];
        // A report of readiness may be wrong, and the read would then block.
        let read = match os::is_readable(self.input()) {
            Ok(true) => os::read(self.input(), &mut typed),
            Ok(false) => return false,
            Err(error) => Err(error),
        };
        match read {
            Ok(0) => self.input_ended(),
            Ok(n) => self.input_read(typed[..n].to_vec().into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => self.input_failed(&error),
        }
        true
    }

    /// Nothing more will be typed. The server goes on.
    pub fn input_ended(&mut self) {
        let mut last = Input::new(Chunk::EMPTY, &mut self.untaken, usize::MAX);
        self.typed.extend(command::parse(&last.take_all()));
        self.end("the input has ended; the server goes on, and SIGTERM drains it");
    }

    /// The input cannot be read. The server goes on.
    pub fn input_failed(&mut self, error: &io::Error) {
        self.end(&format!("the input fails: {error}; the server goes on, and SIGTERM drains it"));
    }

    /// Answers in one line, or several.
    pub fn say(&mut self, text: &str) {
        self.clear_line();
        self.answer.push_str(text);
        self.answer.push('\n');
    }

    /// Shows whole lines that a protocol said. What would do something to a terminal is written
    /// out.
    pub fn show(&mut self, lines: &[u8]) {
        self.clear_line();
        view::write_harmless(lines, &mut self.answer);
    }

    /// Prints what was answered, and prompts for more. The first call is made once the server has
    /// said where it listens.
    pub fn flush(&mut self) {
        if self.prompts && !self.prompting {
            self.answer.push_str(PROMPT);
            self.prompting = true;
        }
        self.print();
    }

    /// Prints the answers without waiting. If they cannot be written any more, the input ends too.
    pub fn print(&mut self) {
        if !self.answer.is_empty() {
            self.output.print(&self.answer);
            self.answer.clear();
        }
        if self.output.is_broken() {
            self.end("the output is closed; the server goes on, and SIGTERM drains it");
        }
    }

    /// Reads no more, and says so, once.
    fn end(&mut self, why: &str) {
        self.prompts = false;
        if !std::mem::replace(&mut self.ended, true) {
            tracing::warn!("console: {why}");
        }
    }

    fn clear_line(&mut self) {
        if std::mem::replace(&mut self.prompting, false) {
            self.answer.push_str(ERASE);
        }
    }
}

impl Drop for Console {
    /// Takes the prompt off the terminal: what comes next there is the shell's.
    fn drop(&mut self) {
        self.clear_line();
        self.print();
    }
}

#[cfg(test)]
mod tests;
