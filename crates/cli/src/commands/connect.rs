//! `proactor connect`: the interactive client.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::Context;

use super::stop_signal;
use super::stream::{Stream, StreamWait};
use crate::client::{self, Script};
use proactor::address::Address;
use proactor_report::units;

/// Connect to one server, or to several at once: send standard input, print the replies.
///
/// With one server, bytes pass unchanged. With several servers, each line goes to all of them;
/// `@2 text` sends `text` to the second server only, and `@@text` sends `@text` to all. Replies are
/// printed by line, with the number of the server: `[1]`, `[2]`, … At the end of the input, the
/// sending side of each connection is closed; further replies are printed until the servers close.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectArgs {
    /// Addresses of the servers: HOST:PORT, [IPV6]:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<Address>,

    /// Send these parts, separated by commas, to every server instead of standard input; \n is a
    /// newline, \, a comma and \\ a backslash
    #[arg(long, value_name = "TEXT,…", value_parser = parts)]
    parts: Option<Parts>,

    /// Pause after each part
    #[arg(long, value_name = "TIME", default_value = "100ms",
          value_parser = units::parse_positive_duration)]
    pause: Duration,

    /// Report connects and closes on stderr; the default if standard input is a terminal
    #[arg(long, short)]
    verbose: bool,
}

impl ConnectArgs {
    /// Runs until every connection is closed, or until SIGINT.
    ///
    /// # Errors
    /// The client itself fails. The failure of a connection is reported at once; the exit status is
    /// then 1.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let file = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        // Unlike the streams of std, these are not buffered.
        let output = Stream::stdout(StreamWait::Forever)?;
        let verbose = self.verbose || self.parts.is_none() && io::stdin().is_terminal();
        let script = match self.parts {
            Some(parts) => Script::Parts(parts, self.pause),
            None => Script::Input(file(io::stdin().as_fd()).context("cannot read standard input")?),
        };
        match client::run(&self.addresses, script, output, stop_signal()?, verbose)? {
            true => Ok(()),
            false => std::process::exit(1),
        }
    }
}

/// The parts to send, in order: another name, because `Vec` has a meaning of its own to clap.
type Parts = Vec<Vec<u8>>;

fn parts(text: &str) -> Result<Parts, String> {
    let (mut parts, mut chars) = (vec![String::new()], text.chars());
    while let Some(char) = chars.next() {
        let part = parts.last_mut().expect("there is always a part");
        let escaped = (char == '\\').then(|| chars.next().map_or(String::new(), String::from));
        match escaped.as_deref() {
            None if char == ',' => parts.push(String::new()),
            None => part.push(char),
            Some("n") => part.push('\n'),
            Some(same @ ("," | "\\")) => part.push_str(same),
            Some(other) => {
                return Err(format!(r"`\{other}` is not an escape: write \n, \, or \\"));
            }
        }
    }
    Ok(parts.into_iter().map(String::into_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_at_commas() {
        assert_eq!(parts("one ,two").unwrap(), [&b"one "[..], b"two"]);
        assert_eq!(parts(r"a\,b\n,,c\\").unwrap(), [&b"a,b\n"[..], b"", b"c\\"]);
        for wrong in [r"a\t", r"a\"] {
            assert!(parts(wrong).unwrap_err().contains("is not an escape"));
        }
    }
}
