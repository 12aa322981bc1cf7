//! Lines, with several servers: the destination of each input line, and a label on each reply.

/// The longest reply line that is printed whole.
const LINE_MAX: usize = 64 << 10;

/// The destination of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The line goes to every server.
    All,
    /// The line goes to this server, counted from 0.
    One(usize),
}

/// Finds the destination of each input line.
///
/// `@2 text` is `text` for the second server; `@@text` is `@text` for all; any other line goes to
/// all unchanged. The first bytes decide; the rest of the line is passed on without delay.
#[derive(Debug)]
pub(super) struct Router {
    several: bool,
    /// The start of a line whose destination is not known yet.
    undecided: Vec<u8>,
    /// The destination of the rest of the line; `None` at the start of a line.
    to: Option<To>,
}

/// The longest number of a server.
const DIGITS_MAX: usize = 9;

impl Router {
    /// With one server, all bytes go to it unchanged.
    pub(super) fn new(several: bool) -> Router {
        Router { several, undecided: Vec::new(), to: None }
    }

    /// Returns bytes with their destinations, in order. No bytes are the end of the input, which
    /// makes an incomplete start a line.
    pub(super) fn route(&mut self, bytes: &[u8]) -> Vec<(To, Vec<u8>)> {
        if !self.several {
            return vec![(To::All, bytes.to_vec())];
        }
        let mut routed = Vec::new();
        let mut pieces: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        if bytes.is_empty() && !self.undecided.is_empty() {
            pieces.push(b"");
        }
        for piece in pieces {
            self.undecided.extend_from_slice(piece);
            let known = self.to.map(|to| (to, 0));
            if let Some((to, skipped)) = known.or_else(|| decide(&self.undecided, piece.is_empty()))
            {
                routed.push((to, self.undecided.split_off(skipped)));
                self.undecided.clear();
                self.to = Some(to).filter(|_| !piece.ends_with(b"\n"));
            }
        }
        routed
    }
}

/// Returns the destination of a line and the length of its prefix; `None` if more bytes are needed.
/// A `whole` line always has a destination.
fn decide(line: &[u8], whole: bool) -> Option<(To, usize)> {
    let Some(rest) = line.strip_prefix(b"@") else { return Some((To::All, 0)) };
    if rest.first() == Some(&b'@') {
        return Some((To::All, 1));
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends = match rest.get(digits) {
        Some(b' ') => 2,
        Some(b'\r' | b'\n') => 1,
        None if whole => 1,
        None if digits <= DIGITS_MAX => return None,
        _ => return Some((To::All, 0)),
    };
    let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
    Some(number.map_or((To::All, 0), |n: usize| (To::One(n.wrapping_sub(1)), digits + ends)))
}

/// Adds the number of the server to each line: `[2] text`. A line is printed when it is complete.
#[derive(Debug)]
pub(super) struct Labelled {
    label: String,
    /// The label and the start of a line; empty between lines.
    unfinished: Vec<u8>,
}

impl Labelled {
    pub(super) fn new(number: usize) -> Labelled {
        Labelled { label: format!("[{number}] "), unfinished: Vec::new() }
    }

    /// Returns the lines that `bytes` completes. A line that is too long is split.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.unfinished.is_empty() {
                self.unfinished.extend_from_slice(self.label.as_bytes());
            }
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                lines.append(&mut self.unfinished);
            } else if self.unfinished.len() > LINE_MAX {
                lines.append(&mut self.finish());
            }
        }
        lines
    }

    /// Returns the start of a line as a line.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        let mut line = std::mem::take(&mut self.unfinished);
        if !line.is_empty() {
            line.push(b'\n');
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Routes these pieces. Neighbours with the same destination are joined.
    fn routed(pieces: &[&[u8]]) -> Vec<(To, String)> {
        let (mut router, mut sent) = (Router::new(true), Vec::<(To, String)>::new());
        let routed = pieces.iter().copied().chain([&b""[..]]).flat_map(|piece| router.route(piece));
        for (to, bytes) in routed {
            let text = String::from_utf8(bytes).unwrap();
            match sent.last_mut() {
                Some((before, all)) if *before == to => all.push_str(&text),
                _ => sent.push((to, text)),
            }
        }
        sent
    }

    #[test]
    fn a_line_goes_to_its_destination_however_it_is_cut() {
        let input = b"all\n@2 two\n@@at\n@x\n@1\n@12 @3\n@7";
        let expected = [
            (To::All, "all\n"),
            (To::One(1), "two\n"),
            (To::All, "@at\n@x\n"),
            (To::One(0), "\n"),
            (To::One(11), "@3\n"),
            (To::One(6), ""),
        ];
        let expected = expected.map(|(to, text)| (to, text.to_owned()));
        assert_eq!(routed(&[input]), expected);
        assert_eq!(routed(&input.chunks(1).collect::<Vec<_>>()), expected);
        for cut in 0..input.len() {
            let (head, tail) = input.split_at(cut);
            assert_eq!(routed(&[head, tail]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_prefix_without_a_number_goes_to_all_unchanged() {
        for text in ["@", "@ x\n", "@2x\n", "@\n", "@99999999999999999999 x\n", " @2 x\n"] {
            assert_eq!(routed(&[text.as_bytes()]), [(To::All, text.to_owned())]);
        }
        assert_eq!(routed(&[b"@0 x"]), [(To::One(usize::MAX), "x".to_owned())]);
    }

    #[test]
    fn lines_are_labelled_when_they_are_complete() {
        let mut labelled = Labelled::new(2);
        assert_eq!(labelled.push(b"on"), b"");
        assert_eq!(labelled.push(b"e\n\ntw"), b"[2] one\n[2] \n");
        assert_eq!(labelled.finish(), b"[2] tw\n");
        assert_eq!(labelled.finish(), b"");
    }

    #[test]
    fn a_line_without_end_is_split() {
        let mut labelled = Labelled::new(1);
        let line = labelled.push(&vec![b'x'; LINE_MAX]);
        assert!(line.starts_with(b"[1] x") && line.ends_with(b"x\n"));
        assert_eq!(labelled.finish(), b"");
    }
}
