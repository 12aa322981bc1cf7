//! `proactor connect`: talk to servers.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;

use crate::client::{self, Event, Script};
use proactor::address::Address;
use proactor::os::Stop;
use proactor_report::units;

/// Talk to one server, or to several at once.
///
/// What is typed is sent, what comes is printed. With one server, bytes pass as they are. With
/// several, a line goes to all of them, `@2 text` to the second only, and `@@text` is `@text` for
/// all; what comes is printed by lines, marked `[1]`, `[2]`, … At the end of the input the servers
/// are told, and what they still say is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the servers listen: 127.0.0.1:7000, [::1]:7000 or unix:PATH
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<Address>,

    /// Say these parts, each to every server, instead of what is typed; in a part, \n is a line's
    /// end, \, a comma and \\ a backslash
    #[arg(long, value_name = "TEXT,…")]
    parts: Option<Parts>,

    /// For how long to listen behind each part: seconds, or with a unit (200ms)
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = units::parse_positive_duration)]
    pause: Duration,

    /// Say on stderr who is connected and who has ended, as is done if a terminal is the input
    #[arg(long, short)]
    verbose: bool,
}

impl Args {
    /// Goes on until every connection has ended, or SIGINT.
    ///
    /// # Errors
    /// Those of the client itself. What happens to a connection is told at once, and makes the
    /// exit code a failure.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let stop = Stop::new().context("cannot wait for Ctrl-C")?;
        stop.on_signals().context("cannot wait for Ctrl-C")?;
        let file = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
        // Unlike those of std, these do not hold bytes back.
        let output = file(io::stdout().as_fd()).context("cannot write to standard output")?;
        let verbose = self.verbose || self.parts.is_none() && io::stdin().is_terminal();
        let script = match self.parts {
            Some(Parts(parts)) => Script::Parts { parts, pause: self.pause },
            None => Script::Typed(file(io::stdin().as_fd()).context("cannot read standard input")?),
        };
        let mut code = ExitCode::SUCCESS;
        let name = |at: usize| format!("{} ({})", self.addresses[at], at + 1);
        client::converse(&self.addresses, script, output, &stop, &mut |event| match event {
            Event::Connected(at) if verbose => eprintln!("connected to {}", name(at)),
            Event::Ended(at) if verbose => eprintln!("{} has ended", name(at)),
            Event::Connected(_) | Event::Ended(_) => {}
            Event::Nobody(whom) => eprintln!("nobody is {whom}: not sent"),
            Event::Refused(at, error) => {
                eprintln!("error: cannot connect to {}: {error}", self.addresses[at]);
                code = ExitCode::FAILURE;
            }
            Event::Broken(at, error) => {
                eprintln!("error: the connection to {} broke: {error}", self.addresses[at]);
                code = ExitCode::FAILURE;
            }
        })?;
        Ok(code)
    }
}

/// What to say, part by part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts(VecDeque<Vec<u8>>);

impl FromStr for Parts {
    type Err = String;

    fn from_str(text: &str) -> Result<Parts, String> {
        let (mut parts, mut part) = (VecDeque::new(), String::new());
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                ',' => parts.push_back(std::mem::take(&mut part).into_bytes()),
                '\\' => match chars.next() {
                    Some('n') => part.push('\n'),
                    Some(same @ (',' | '\\')) => part.push(same),
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        return Err(format!("`\\{other}` means nothing: write \\n, \\, or \\\\"));
                    }
                },
                char => part.push(char),
            }
        }
        parts.push_back(part.into_bytes());
        Ok(Parts(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_at_commas() {
        let parts = |text: &str| text.parse::<Parts>().map(|Parts(parts)| Vec::from(parts));
        assert_eq!(parts("one ,two").unwrap(), [&b"one "[..], b"two"]);
        assert_eq!(parts(r"a\,b\n,,c\\").unwrap(), [&b"a,b\n"[..], b"", b"c\\"]);
        for wrong in [r"a\t", r"a\"] {
            assert!(parts(wrong).unwrap_err().contains("means nothing"));
        }
    }
}
