//! Lines out of chunks, however the network cut them.

use crate::buffer::Chunk;

/// The longest line in bytes, its newline not counted.
pub const LINE_MAX: usize = 16 << 10;
/// What is answered to a line that is longer.
pub const TOO_LONG: &str = "line too long: 16384 bytes at most\n";

/// Cuts what arrives into whole lines. Holds at most one partial line, of at most [`LINE_MAX`].
///
/// Whole lines that arrived together come out together, in place; only a line that straddles two
/// chunks is copied. Any bytes may stand in a line but the newline.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// True exactly while the rest of a line that was too long is thrown away.
    skipping: bool,
}

/// What [`Lines::feed`] finds.
#[derive(Debug)]
pub enum Piece {
    /// One or more whole lines, each with its newline.
    Lines(Chunk),
    /// A line longer than [`LINE_MAX`], thrown away. Said once for each.
    TooLong,
}

impl Lines {
    /// Takes in `chunk` and calls `each` with what it completes, in order.
    pub fn feed(&mut self, mut chunk: Chunk, mut each: impl FnMut(Piece)) {
        if self.skipping || !self.partial.is_empty() {
            let Some(len) = newline(&chunk) else { return self.keep(&chunk, each) };
            let end = chunk.split_to(len + 1);
            if !std::mem::take(&mut self.skipping) {
                let mut line = std::mem::take(&mut self.partial);
                if line.len() + len > LINE_MAX {
                    each(Piece::TooLong);
                } else {
                    line.extend_from_slice(&end);
                    each(Piece::Lines(line.into()));
                }
            }
        }
        let mut whole = 0;
        while let Some(len) = newline(&chunk[whole..]) {
            if len > LINE_MAX {
                if whole > 0 {
                    each(Piece::Lines(chunk.split_to(whole)));
                }
                chunk.advance(len + 1);
                each(Piece::TooLong);
                whole = 0;
            } else {
                whole += len + 1;
            }
        }
        if whole > 0 {
            each(Piece::Lines(chunk.split_to(whole)));
        }
        self.keep(&chunk, each);
    }

    /// The last line, if the stream ended without its newline; one is put to it.
    pub fn finish(&mut self) -> Option<Chunk> {
        let mut line = std::mem::take(&mut self.partial);
        if line.is_empty() {
            return None;
        }
        line.push(b'\n');
        Some(line.into())
    }

    fn keep(&mut self, rest: &[u8], mut each: impl FnMut(Piece)) {
        if self.skipping {
            return;
        }
        if self.partial.len() + rest.len() > LINE_MAX {
            self.partial = Vec::new();
            self.skipping = true;
            each(Piece::TooLong);
        } else {
            self.partial.extend_from_slice(rest);
        }
    }
}

fn newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines of `parts`, and how many were too long.
    fn lines<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, usize) {
        let (mut lines, mut text, mut too_long) = (Lines::default(), Vec::new(), 0);
        for part in parts {
            lines.feed(Chunk::from(part.to_vec()), |piece| match piece {
                Piece::Lines(chunk) => {
                    assert_eq!(chunk.last(), Some(&b'\n'), "whole lines only");
                    text.extend_from_slice(&chunk);
                }
                Piece::TooLong => too_long += 1,
            });
            assert!(lines.partial.len() <= LINE_MAX);
        }
        text.extend_from_slice(&lines.finish().map(|chunk| chunk.to_vec()).unwrap_or_default());
        (text, too_long)
    }

    #[test]
    fn the_complaint_names_the_limit() {
        assert_eq!(TOO_LONG, format!("line too long: {LINE_MAX} bytes at most\n"));
    }

    #[test]
    fn whole_lines_come_out_together_and_in_place() {
        let chunk = Chunk::from(b"one\ntwo\nthr".to_vec());
        let place = chunk.as_ptr();
        let mut pieces = Vec::new();
        Lines::default().feed(chunk, |piece| pieces.push(piece));
        let [Piece::Lines(lines)] = &pieces[..] else { panic!("{pieces:?}") };
        assert_eq!((&lines[..], lines.as_ptr()), (&b"one\ntwo\n"[..], place));
    }

    #[test]
    fn a_line_of_the_greatest_length_passes_and_one_more_byte_does_not() {
        let mut line = vec![b'x'; LINE_MAX];
        line.push(b'\n');
        assert_eq!(lines([&line[..]]), (line.clone(), 0));
        line.insert(0, b'x');
        line.extend_from_slice(b"next\n");
        assert_eq!(lines([&line[..]]), (b"next\n".to_vec(), 1));
    }

    proptest! {
        #[test]
        fn how_the_network_cut_the_bytes_changes_nothing(
            lengths in prop::collection::vec(prop_oneof![0..40usize, LINE_MAX - 1..LINE_MAX + 3], 0..6),
            terminated: bool,
            mut cuts in prop::collection::vec(0..=4 * LINE_MAX, 0..8),
        ) {
            let mut text = Vec::new();
            for (at, length) in lengths.iter().enumerate() {
                text.resize(text.len() + length, b'a' + at as u8);
                if terminated || at + 1 < lengths.len() {
                    text.push(b'\n');
                }
            }
            cuts.retain(|&cut| cut < text.len());
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
            prop_assert_eq!(lines(parts), lines([&text[..]]));
        }
    }
}
