//! What a console makes of what is typed, and what is seen of its answers.

use std::fs::File;
use std::io::{Read, Seek};

use super::*;

/// A console that prints to a file, and what it has printed at its end.
struct Typed {
    console: Console,
    printed: File,
}

impl Typed {
    fn new(prompts: bool) -> Typed {
        let printed = tempfile::tempfile().unwrap();
        let input = File::open("/dev/null").unwrap().into();
        let console = Console::new(input, printed.try_clone().unwrap(), prompts, Vec::new());
        Typed { console: console.unwrap(), printed }
    }

    fn input_read(&mut self, typed: &[u8]) {
        self.console.input_read(typed.to_vec().into());
    }

    fn commands(&mut self) -> Vec<Result<Command, String>> {
        std::iter::from_fn(|| self.console.typed.pop_front()).collect()
    }

    fn end(mut self) -> String {
        self.console.flush();
        drop(self.console);
        let mut text = String::new();
        self.printed.rewind().unwrap();
        self.printed.read_to_string(&mut text).unwrap();
        text
    }
}

#[test]
fn commands_are_lines_however_they_were_read() {
    let mut typed = Typed::new(false);
    typed.input_read(b"li");
    assert_eq!(typed.commands(), []);
    typed.input_read(b"st\n\nkick 3\nsay a");
    assert_eq!(typed.commands(), [Ok(Command::List), Ok(Command::Kick(3))]);
    typed.input_read(b"b\n");
    assert_eq!(typed.commands(), [Ok(Command::Say(b"ab\n".to_vec()))]);
}

#[test]
fn a_line_too_long_is_answered_once_and_costs_bounded_memory() {
    let mut typed = Typed::new(false);
    (0..100).for_each(|_| typed.input_read(&[b'x'; 4096]));
    typed.input_read(b"\nlist\n");
    let too_long = "line too long: 16384 bytes at most".to_owned();
    assert_eq!(typed.commands(), [Err(too_long), Ok(Command::List)]);
}

#[test]
fn the_last_line_counts_without_its_newline_and_the_end_ends_it_once() {
    let mut typed = Typed::new(true);
    typed.input_read(b"drain");
    assert!(!typed.console.has_ended());
    typed.console.input_ended();
    typed.console.input_ended();
    assert_eq!(typed.commands(), [Ok(Command::Drain)]);
    assert!(typed.console.has_ended());
    assert_eq!(typed.end(), "", "no prompt without a terminal");
}

#[test]
fn a_prompt_is_printed_once_and_gives_way_to_what_comes_meanwhile() {
    let mut typed = Typed::new(true);
    typed.console.flush();
    typed.console.flush();
    typed.console.show(b"[1] hello\n");
    typed.console.show(b"[2] hello\n");
    typed.console.flush();
    typed.input_read(b"list\n");
    typed.console.say("no connections");
    let expected = "> \r\x1b[K[1] hello\n[2] hello\n> no connections\n> \r\x1b[K";
    assert_eq!(typed.end(), expected);
}

#[test]
fn without_a_terminal_there_is_no_prompt_and_nothing_is_erased() {
    let mut typed = Typed::new(false);
    typed.console.flush();
    typed.console.show(b"[1] \x1b[2J\n");
    typed.console.say("said to 1 connection");
    assert_eq!(typed.end(), "[1] \\u001b[2J\nsaid to 1 connection\n");
}
