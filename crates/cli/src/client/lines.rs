//! Lines, where there are several servers: whom one that is typed is for, and who said one that
//! came.

/// The longest line that is printed whole, if there are several servers.
const LINE_MAX: usize = 64 << 10;

/// Whom a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    All,
    /// Counting from 0.
    One(usize),
}

/// Finds out of each line that is typed whom it is for, if there are several servers.
///
/// `@2 text` is `text` for the second; `@@text` is `@text` for all; anything else is for all as it
/// is. The first bytes decide, and the rest of the line is not held back.
#[derive(Debug)]
pub(super) struct Router {
    /// What has come of a line, as long as it does not say yet whom it is for.
    undecided: Vec<u8>,
    /// Whom the rest of the line is for; `None` at the start of one.
    to: Option<To>,
}

/// No number of a server is longer.
const DIGITS_MAX: usize = 9;

impl Router {
    pub(super) fn new() -> Router {
        Router { undecided: Vec::new(), to: None }
    }

    /// Hands on what is for somebody, in order.
    pub(super) fn push(&mut self, bytes: &[u8], say: &mut impl FnMut(To, &[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            match self.to {
                Some(to) => say(to, piece),
                None => self.begin(piece, say),
            }
            if piece.ends_with(b"\n") {
                self.to = None;
            }
        }
    }

    /// Nothing more comes: what is undecided is a line.
    pub(super) fn finish(&mut self, say: &mut impl FnMut(To, &[u8])) {
        let line = std::mem::take(&mut self.undecided);
        if !line.is_empty() {
            let (to, skipped) = decide(&line, true).expect("a whole line decides");
            say(to, &line[skipped..]);
        }
    }

    fn begin(&mut self, piece: &[u8], say: &mut impl FnMut(To, &[u8])) {
        self.undecided.extend_from_slice(piece);
        if let Some((to, skipped)) = decide(&self.undecided, false) {
            say(to, &self.undecided[skipped..]);
            self.undecided.clear();
            self.to = Some(to);
        }
    }
}

/// Whom a line is for by what has come of it, and how many bytes of it said so; `None` if more must
/// come first. A `whole` line always decides.
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

/// Marks each line with who has said it: `[2] text`. A line is printed when it is whole.
#[derive(Debug)]
pub(super) struct Labelled {
    label: String,
    /// The label and what has come of a line; empty if nothing has.
    unfinished: Vec<u8>,
}

impl Labelled {
    pub(super) fn new(number: usize) -> Labelled {
        Labelled { label: format!("[{number}] "), unfinished: Vec::new() }
    }

    /// Answers the lines that `bytes` completes; one that is too long is cut.
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

    /// Answers what has come of a line as if it were whole.
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

    /// What a router makes of these pieces, neighbours for the same joined.
    fn routed(pieces: &[&[u8]]) -> Vec<(To, String)> {
        let (mut router, mut said) = (Router::new(), Vec::<(To, String)>::new());
        let mut say = |to, bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            match said.last_mut() {
                Some((before, all)) if *before == to => all.push_str(&text),
                _ => said.push((to, text)),
            }
        };
        pieces.iter().for_each(|piece| router.push(piece, &mut say));
        router.finish(&mut say);
        said
    }

    #[test]
    fn a_line_goes_to_whom_it_is_for_however_it_is_cut() {
        let typed = b"all\n@2 two\n@@at\n@x\n@1\n@12 @3\n@7";
        let expected = [
            (To::All, "all\n"),
            (To::One(1), "two\n"),
            (To::All, "@at\n@x\n"),
            (To::One(0), "\n"),
            (To::One(11), "@3\n"),
            (To::One(6), ""),
        ];
        let expected = expected.map(|(to, text)| (to, text.to_owned()));
        assert_eq!(routed(&[typed]), expected);
        assert_eq!(routed(&typed.chunks(1).collect::<Vec<_>>()), expected);
        for cut in 0..typed.len() {
            let (head, tail) = typed.split_at(cut);
            assert_eq!(routed(&[head, tail]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_number_is_for_all_as_it_is() {
        for text in ["@", "@ x\n", "@2x\n", "@\n", "@99999999999999999999 x\n", " @2 x\n"] {
            assert_eq!(routed(&[text.as_bytes()]), [(To::All, text.to_owned())]);
        }
        assert_eq!(routed(&[b"@0 x"]), [(To::One(usize::MAX), "x".to_owned())]);
    }

    #[test]
    fn lines_are_labelled_when_they_are_whole() {
        let mut labelled = Labelled::new(2);
        assert_eq!(labelled.push(b"on"), b"");
        assert_eq!(labelled.push(b"e\n\ntw"), b"[2] one\n[2] \n");
        assert_eq!(labelled.finish(), b"[2] tw\n");
        assert_eq!(labelled.finish(), b"");
    }

    #[test]
    fn a_line_that_does_not_end_is_cut() {
        let mut labelled = Labelled::new(1);
        let line = labelled.push(&vec![b'x'; LINE_MAX]);
        assert!(line.starts_with(b"[1] x") && line.ends_with(b"x\n"));
        assert_eq!(labelled.finish(), b"");
    }
}
