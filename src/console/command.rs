//! What an operator may type: a line is a command, or there is a line that says why not.

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Show a row for every connection.
    List,
    /// Say this line to everyone. Its bytes need not be text; it ends with a newline.
    Say(Vec<u8>),
    /// Say this line to the connection of that number.
    SendTo(u64, Vec<u8>),
    /// Close the connection of that number at once.
    Kick(u64),
    /// Show what was counted.
    Stats,
    /// End the server when everyone has what is owed to them.
    Drain,
    /// End the server at once.
    Quit,
    /// Print the list of commands.
    Help,
}

/// The commands, each with what it does.
pub(super) const HELP: &str = include_str!("help.txt");

const NAMES: [&str; 8] = ["list", "say", "tell", "kick", "stats", "drain", "quit", "help"];

/// Reads a line, its newline included. `None` if it is blank; an error is one line for the
/// operator.
pub(super) fn parse(line: &[u8]) -> Option<Result<Command, String>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
    if line.is_empty() {
        return None;
    }
    let (word, rest) = first_word(line);
    let alone = |command| match rest.trim_ascii() {
        b"" => Ok(command),
        _ => Err(format!("`{}` stands alone: nothing may follow it", word.escape_ascii())),
    };
    Some(match word {
        b"list" => alone(Command::List),
        b"stats" => alone(Command::Stats),
        b"drain" => alone(Command::Drain),
        b"quit" => alone(Command::Quit),
        b"help" => alone(Command::Help),
        b"say" => text(rest, "say what? `say TEXT`").map(Command::Say),
        b"kick" => match first_word(rest.trim_ascii()) {
            (word, b"") => number(word).map(Command::Kick),
            _ => Err("missing number: `kick N` takes one".to_owned()),
        },
        b"tell" => send_to(rest),
        _ if word[0].is_ascii_digit() => send_to(line),
        _ => Err(unknown(word)),
    })
}

/// The first word, and what stands behind the blank that ends it.
fn first_word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(u8::is_ascii_whitespace) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, b""),
    }
}

fn send_to(rest: &[u8]) -> Result<Command, String> {
    let (word, rest) = first_word(rest.trim_ascii_start());
    let number = number(word)?;
    let what = format!("say what to {number}? `{number} TEXT`");
    text(rest, &what).map(|text| Command::SendTo(number, text))
}

fn number(word: &[u8]) -> Result<u64, String> {
    let number = str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    number.ok_or_else(|| match word {
        b"" => "missing number: `list` shows them".to_owned(),
        _ => format!("no number `{}`: `list` shows them", shown(word)),
    })
}

fn text(rest: &[u8], missing: &str) -> Result<Vec<u8>, String> {
    if rest.is_empty() {
        return Err(missing.to_owned());
    }
    Ok([rest, b"\n"].concat())
}

fn unknown(word: &[u8]) -> String {
    let shown = shown(word);
    let near = NAMES.iter().map(|name| (distance(word, name.as_bytes()), name)).min();
    match near {
        Some((0..=2, name)) => format!("no command `{shown}`: did you mean `{name}`?"),
        _ => format!("no command `{shown}`: one of {}", NAMES.join(", ")),
    }
}

/// Returns a word for an error message: escaped, and of bounded length.
fn shown(word: &[u8]) -> String {
    const MOST: usize = 40;
    let dots = if word.len() > MOST { "…" } else { "" };
    format!("{}{dots}", word[..word.len().min(MOST)].escape_ascii())
}

/// How many letters have to be put in, taken out or changed to make the one of the other
/// (Levenshtein); no distance above three is distinguished.
fn distance(one: &[u8], other: &[u8]) -> usize {
    if one.len().abs_diff(other.len()) > 2 {
        return 3;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (to, its) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != its);
            diagonal = row[to + 1];
            row[to + 1] = changed.min(diagonal + 1).min(row[to] + 1);
        }
    }
    row[other.len()].min(3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(line: &str) -> Command {
        parse(line.as_bytes()).unwrap().unwrap()
    }

    fn complaint(line: &str) -> String {
        parse(line.as_bytes()).unwrap().unwrap_err()
    }

    #[test]
    fn each_command_is_read() {
        assert_eq!(command("list\n"), Command::List);
        assert_eq!(command("  stats \r\n"), Command::Stats);
        assert_eq!(command("drain"), Command::Drain);
        assert_eq!(command("quit\n"), Command::Quit);
        assert_eq!(command("help\n"), Command::Help);
        assert_eq!(command("kick 12\n"), Command::Kick(12));
        assert_eq!(command("say hello  you \n"), Command::Say(b"hello  you \n".to_vec()));
        let sent = Command::SendTo(3, b" two blanks\n".to_vec());
        assert_eq!(
            [command("3  two blanks\n"), command("tell 3  two blanks\r\n")],
            [sent.clone(), sent]
        );
        assert_eq!(parse(b" \r\n"), None);
    }

    #[test]
    fn a_text_may_be_any_bytes() {
        assert_eq!(parse(b"say \xff\x1b\n"), Some(Ok(Command::Say(b"\xff\x1b\n".to_vec()))));
    }

    #[test]
    fn what_is_no_command_is_named_with_a_way_out() {
        let names = "one of list, say, tell, kick, stats, drain, quit, help";
        assert_eq!(complaint("frobnicate 3\n"), format!("no command `frobnicate`: {names}"));
        assert_eq!(complaint("lsit\n"), "no command `lsit`: did you mean `list`?");
        assert_eq!(complaint("kcik 3\n"), "no command `kcik`: did you mean `kick`?");
        assert_eq!(complaint("\x1b[2J\n"), format!(r"no command `\x1b[2J`: {names}"));
        assert!(complaint(&"x".repeat(9999)).contains("xxx…`: one of"));
        assert!(complaint(&format!("kick {}", "9".repeat(9999))).contains("999…`: `list`"));
        assert_eq!(complaint("list all\n"), "`list` stands alone: nothing may follow it");
        assert_eq!(complaint("say\n"), "say what? `say TEXT`");
        assert_eq!(complaint("3\n"), "say what to 3? `3 TEXT`");
        assert_eq!(complaint("tell\n"), "missing number: `list` shows them");
        assert_eq!(complaint("tell me more\n"), "no number `me`: `list` shows them");
        assert_eq!(complaint("kick everyone\n"), "no number `everyone`: `list` shows them");
        assert_eq!(complaint("kick 1 2\n"), "missing number: `kick N` takes one");
        let huge = "99999999999999999999";
        assert_eq!(
            complaint(&format!("kick {huge}")),
            format!("no number `{huge}`: `list` shows them")
        );
    }

    #[test]
    fn help_explains_every_command() {
        assert!(NAMES.iter().all(|name| HELP.contains(name)));
    }

    proptest! {
        #[test]
        fn whatever_is_typed_is_answered_in_one_harmless_line(line: Vec<u8>) {
            if let Some(Err(complaint)) = parse(&line) {
                prop_assert!(!complaint.contains(char::is_control) && complaint.len() < 300);
            }
        }
    }
}
