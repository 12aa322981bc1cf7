//! A reader is given any bytes: as they come, and again behind a header that lets them in. It may
//! refuse them; it may not panic, hang, or take memory that the bytes do not.

#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use proactor::trace::format::{BYTE_ORDER, HEADER, MAGIC, MAJOR, RECORD};
use proactor::trace::{Follow, Header, Trace, json, json_header, line, title};

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if let Some(bytes) = admitted(bytes) {
        read(&bytes);
        follow(&bytes);
    }
});

/// Everything that is told of a trace.
fn read(bytes: &[u8]) {
    let Ok(trace) = Trace::from_bytes(bytes) else { return };
    let header = &trace.header;
    assert!(trace.records.len() <= bytes.len() / RECORD * 2 + 2, "more records than bytes");
    drop((title(header, trace.lost()), json_header(header, trace.lost(), &trace.remarks)));
    trace.events().for_each(|event| drop((line(header, &event), json(header, &event))));
}

/// The same bytes as if somebody were still writing them.
fn follow(bytes: &[u8]) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("room for it");
    let Ok(mut follow) = Follow::new(file, false) else { return };
    for _ in 0..64 {
        match follow.poll() {
            Ok(events) => events.iter().for_each(|event| drop(line(follow.header(), event))),
            Err(_) => return,
        }
        if follow.is_read() {
            return;
        }
    }
}

/// The bytes behind the marks of a trace, of few slots, so that what is in it is looked at.
fn admitted(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < HEADER {
        return None;
    }
    let capacity = 1u64 << (bytes[24] % 9);
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&BYTE_ORDER.to_ne_bytes());
    bytes[12..14].copy_from_slice(&MAJOR.to_ne_bytes());
    bytes[16..20].copy_from_slice(&(RECORD as u32).to_ne_bytes());
    bytes[20..24].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    bytes[24..32].copy_from_slice(&capacity.to_ne_bytes());
    assert!(Header::parse(&bytes).is_ok(), "so it is let in");
    Some(bytes)
}
