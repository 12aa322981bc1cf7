//! Perfetto's format, read by few lines of our own: what does not parse, or does not hold together,
//! is a panic.

use std::collections::{HashMap, HashSet};

/// A field of a message: its number, and a number or bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(crate) fn number(self) -> u64 {
        match self {
            Field::Number(number) => number,
            Field::Bytes(bytes) => panic!("{bytes:?} is no number"),
        }
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Field::Bytes(bytes) => bytes,
            Field::Number(number) => panic!("{number} is no message"),
        }
    }
}

/// The fields of a message, in their order.
pub(crate) fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for at in 0.. {
            let (first, rest) = bytes.split_first().expect("a varint ends");
            *bytes = rest;
            value |= u64::from(first & 127) << (7 * at);
            if first & 128 == 0 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => {
                let (number, rest) = bytes.split_first_chunk().expect("eight bytes");
                bytes = rest;
                Field::Number(u64::from_le_bytes(*number))
            }
            2 => {
                let len = varint(&mut bytes) as usize;
                let (inner, rest) = bytes.split_at(len);
                bytes = rest;
                Field::Bytes(inner)
            }
            wire => panic!("nothing has wire type {wire}"),
        };
        all.push((tag >> 3, field));
    }
    all
}

pub(crate) fn find<'a>(message: &[(u64, Field<'a>)], number: u64) -> Option<Field<'a>> {
    message.iter().find(|(field, _)| *field == number).map(|(_, value)| *value)
}

pub(crate) fn text(field: Field<'_>) -> String {
    String::from_utf8(field.bytes().to_vec()).unwrap()
}

/// What a Perfetto trace says, as far as this needs it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tracks: HashMap<u64, String>,
    /// By track and name.
    pub(crate) slices: HashMap<(String, String), usize>,
    pub(crate) instants: HashMap<(String, String), usize>,
    pub(crate) counters: HashMap<String, Vec<u64>>,
    pub(crate) begun: HashSet<u64>,
    pub(crate) ended: HashSet<u64>,
    /// From one event of a flow to the next.
    pub(crate) flows: usize,
}

/// Decodes an export. Fails unless each track is declared before it is used, each slice that begins
/// ends, no flow ends that has not begun, time never goes back, and each instant has a time of its
/// own on its track: Perfetto draws instants of the same time in separate rows.
pub(crate) fn decode(bytes: &[u8]) -> Seen {
    let mut decoder = Decoder::default();
    for (number, packet) in fields(bytes) {
        assert_eq!(number, 1, "a trace has packets and nothing else");
        let packet = fields(packet.bytes());
        if let Some(interned) = find(&packet, 12) {
            decoder.learn(interned);
        }
        if let Some(track) = find(&packet, 60) {
            decoder.track(track);
        }
        if let Some(event) = find(&packet, 11) {
            decoder.event(find(&packet, 8).unwrap().number(), &fields(event.bytes()));
        }
    }
    let ended = decoder.depth.values().all(|&depth| depth == 0);
    assert!(ended, "a slice has not ended");
    decoder.seen
}

/// What packets before said that those behind them need.
#[derive(Debug, Default)]
struct Decoder {
    seen: Seen,
    /// Events' names, by their numbers.
    names: HashMap<u64, String>,
    /// How many slices are open on a track.
    depth: HashMap<u64, i64>,
    /// When the last event was, and the last instant of each track.
    last: u64,
    instants: HashMap<u64, u64>,
}

impl Decoder {
    /// Names are given numbers.
    fn learn(&mut self, interned: Field<'_>) {
        for (_, entry) in fields(interned.bytes()).iter().filter(|(field, _)| *field == 2) {
            let entry = fields(entry.bytes());
            self.names.insert(find(&entry, 1).unwrap().number(), text(find(&entry, 2).unwrap()));
        }
    }

    /// Reads the declaration of a track.
    fn track(&mut self, track: Field<'_>) {
        let track = fields(track.bytes());
        let name = text(find(&track, 2).unwrap());
        let before = self.seen.tracks.insert(find(&track, 1).unwrap().number(), name);
        assert_eq!(before, None);
    }

    fn event(&mut self, at: u64, event: &[(u64, Field<'_>)]) {
        assert!(at >= std::mem::replace(&mut self.last, at), "it is earlier than the one before");
        let id = find(event, 11).unwrap().number();
        let track = self.seen.tracks.get(&id).expect("the track is declared").clone();
        let name = || self.names[&find(event, 10).unwrap().number()].clone();
        match find(event, 9).unwrap().number() {
            1 => {
                *self.depth.entry(id).or_default() += 1;
                *self.seen.slices.entry((track, name())).or_default() += 1;
            }
            2 => {
                let depth = self.depth.entry(id).or_default();
                *depth -= 1;
                assert!(*depth >= 0, "a slice of {track} ends that has not begun");
            }
            3 => {
                let before = self.instants.insert(id, at);
                assert!(before != Some(at) || at == u64::MAX, "two at once on {track}");
                *self.seen.instants.entry((track, name())).or_default() += 1;
            }
            4 => {
                let value = find(event, 30).unwrap().number();
                self.seen.counters.entry(track).or_default().push(value);
            }
            other => panic!("no event is of type {other}"),
        }
        self.flows(event);
    }

    /// An event goes on with flows, or ends them.
    fn flows(&mut self, event: &[(u64, Field<'_>)]) {
        let seen = &mut self.seen;
        for (field, flow) in event {
            match field {
                47 => seen.flows += usize::from(!seen.begun.insert(flow.number())),
                48 => {
                    assert!(seen.begun.contains(&flow.number()));
                    assert!(seen.ended.insert(flow.number()));
                    seen.flows += 1;
                }
                _ => {}
            }
        }
    }
}
