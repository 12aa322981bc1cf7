//! The pages of a trace buffer, as read from `trace_pipe_raw`: a header, then events with time
//! differences.
//!
//! ```text
//!   type 5 bits │ delta 27 bits     1..28 payload length in words     0 length in the next word
//!                                   29 padding    30 upper part of delta  31 absolute time
//! ```
//!
//! The kernel describes the header in `events/header_page`. The encoding of the events is part of
//! its interface to user space (`events/header_event`, unchanged since 2.6.32).

use super::layout::{Field, fields};

/// The bits of the commit field that are the length. The highest two report missed events.
const LENGTH: u64 = (1 << 27) - 1;
const MISSED: u64 = 1 << 31;
const MISSED_STORED: u64 = 1 << 30;
/// The highest bits of the time, which an absolute time stamp does not contain.
const UPPER: u64 = 0x1f << 59;

/// The layout of a page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    time: Field,
    commit: Field,
    data: usize,
}

impl PageLayout {
    /// Parses `events/header_page`; `None` if a field is missing.
    pub fn parse(text: &str) -> Option<PageLayout> {
        let all = fields(text);
        let field = |name| all.iter().find(|(known, _)| known == name).map(|(_, field)| *field);
        let (time, commit, data) = (field("timestamp")?, field("commit")?, field("data")?);
        Some(PageLayout { time, commit, data: data.offset })
    }

    /// Returns the events of a page, in order, and how many events were missed before them
    /// (`u64::MAX` if the number is unknown). Accepts any bytes.
    pub fn read<'a>(&self, page: &'a [u8]) -> (PageEntries<'a>, u64) {
        let time = self.time.read(page).unwrap_or(0);
        let commit = self.commit.read(page).unwrap_or(0);
        let end = self.data.saturating_add((commit & LENGTH) as usize);
        let rest = page.get(self.data..end.min(page.len())).unwrap_or_default();
        let missed = match (commit & MISSED != 0, commit & MISSED_STORED != 0) {
            (false, _) => 0,
            // The number follows the data if there was space for it.
            (true, true) => {
                let stored = Field { offset: end, size: 8, signed: false };
                stored.read(page).unwrap_or(u64::MAX)
            }
            (true, false) => u64::MAX,
        };
        (PageEntries { rest, time }, missed)
    }
}

/// The events of a page, each with its time and its payload.
#[derive(Debug, Clone)]
pub struct PageEntries<'a> {
    rest: &'a [u8],
    time: u64,
}

impl<'a> Iterator for PageEntries<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<(u64, &'a [u8])> {
        loop {
            let (head, rest) = self.rest.split_first_chunk::<4>()?;
            let head = u32::from_ne_bytes(*head);
            // The first field of a bit field is the lowest on little-endian machines only.
            let (kind, delta) = if cfg!(target_endian = "little") {
                (head & 0x1f, u64::from(head >> 5))
            } else {
                (head >> 27, u64::from(head & 0x07ff_ffff))
            };
            let word = rest.first_chunk::<4>().map(|word| u32::from_ne_bytes(*word));
            let (payload, len) = match kind {
                0 => {
                    let len = word? as usize;
                    (Some(rest.get(4..len)?), len)
                }
                29 => match (delta, word) {
                    (0, _) | (_, None) => return None,
                    (_, Some(len)) => (None, len as usize),
                },
                30 => {
                    self.time = self.time.wrapping_add(u64::from(word?) << 27).wrapping_add(delta);
                    (None, 4)
                }
                31 => {
                    let whole = u64::from(word?) << 27 | delta;
                    self.time = whole & !UPPER | self.time & UPPER;
                    (None, 4)
                }
                words => {
                    let len = words as usize * 4;
                    (Some(rest.get(..len)?), len)
                }
            };
            self.rest = rest.get(len.max(4)..).unwrap_or_default();
            if let Some(payload) = payload {
                self.time = self.time.wrapping_add(delta);
                return Some((self.time, payload));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                          \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                          \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
                          \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";

    fn head(kind: u32, delta: u32) -> [u8; 4] {
        if cfg!(target_endian = "little") { kind | delta << 5 } else { kind << 27 | delta }
            .to_ne_bytes()
    }

    fn page(parts: &[&[u8]], flags: u64) -> Vec<u8> {
        let data = parts.concat();
        let commit = data.len() as u64 | flags;
        [&1000u64.to_ne_bytes()[..], &commit.to_ne_bytes(), &data].concat()
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        let layout = PageLayout::parse(HEADER).expect("a header");
        let long = [&16u32.to_ne_bytes()[..], &[7; 12]].concat();
        let bytes = page(
            &[
                &head(2, 5),
                &[1; 8],
                &head(0, 1),
                &long,
                &head(30, 3),
                &2u32.to_ne_bytes(),
                &head(29, 9),
                &8u32.to_ne_bytes(),
                &[0xff; 4],
                &head(1, 1),
                &[2; 4],
                &head(31, 6),
                &1u32.to_ne_bytes(),
                &head(1, 0),
                &[3; 4],
                &head(29, 0),
                &[0xee; 40],
            ],
            0,
        );
        let (entries, missed) = layout.read(&bytes);
        let entries: Vec<_> = entries.collect();
        let extended = 1006 + (2 << 27) + 3;
        let expected: [(u64, &[u8]); 4] =
            [(1005, &[1; 8]), (1006, &[7; 12]), (extended + 1, &[2; 4]), ((1 << 27) + 6, &[3; 4])];
        assert_eq!((&entries[..], missed), (&expected[..], 0));
    }

    #[test]
    fn missed_events_are_reported_with_their_number_if_it_is_known() {
        let layout = PageLayout::parse(HEADER).expect("a header");
        assert_eq!(layout.read(&page(&[], MISSED)).1, u64::MAX);
        let mut stored = page(&[], MISSED | MISSED_STORED);
        stored.extend(77u64.to_ne_bytes());
        assert_eq!(layout.read(&stored).1, 77);
    }

    #[test]
    fn reading_any_bytes_as_a_page_ends() {
        let layout = PageLayout::parse(HEADER).expect("a header");
        let mut state = 1u64;
        for len in (0..600).chain([4096; 200]) {
            let mut bytes = vec![0; len];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
            assert!(layout.read(&bytes).0.count() <= len / 4);
        }
        assert_eq!(PageLayout::parse(""), None);
    }
}
