//! All that is made of bytes that claim to be a trace. They may be refused; nothing may panic,
//! hang, or take memory that the bytes do not.

use std::io::{self, Write};

use proactor_trace::export::{jsonl, page, perfetto};
use proactor_trace::format::{BYTE_ORDER, HEADER, MAGIC, MAJOR, RECORD};
use proactor_trace::view::Cut;
use proactor_trace::{
    Filter, Follow, Header, MergedEvent, Trace, TraceFile, Writers, events, json_header, title,
};
use serde_json::Value;

use super::perfetto::decode;

/// Runs every view of a trace.
pub(crate) fn read(bytes: &[u8]) {
    let Ok(trace) = Trace::from_bytes(bytes) else { return };
    let header = &trace.header;
    assert!(trace.records.len() <= bytes.len() / RECORD * 2 + 2, "more records than bytes");
    drop((title(header, trace.lost()), json_header(header, trace.lost(), &trace.remarks)));
    let own = events(&trace).map(|event| MergedEvent::Own(Box::new(event)));
    own.for_each(|event| drop((event.line(header), event.line_of_day(header), event.json(header))));
}

/// Follows the same bytes, as if a recorder still wrote them.
pub(crate) fn follow(bytes: &[u8]) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("space on the disk");
    let Ok(mut follow) = Follow::new(file, false) else { return };
    for _ in 0..64 {
        match follow.poll() {
            Ok(events) => events.iter().for_each(|event| drop(event.line(follow.header()))),
            Err(_) => return,
        }
        if follow.is_read() {
            return;
        }
    }
}

/// Every export, with tracks for so many connections: Perfetto's is well-formed, its slices are
/// balanced, and all JSON parses.
pub(crate) fn export(bytes: &[u8], most: usize) {
    let Ok(trace) = TraceFile::from_bytes(bytes) else { return };
    let (cut, everything) = (Cut::default(), Filter::default());
    let written = |write: &dyn Fn(&mut Vec<u8>) -> io::Result<()>| {
        let mut out = Vec::new();
        write(&mut out).expect("memory can be written to");
        out
    };
    decode(&written(&|out| perfetto(&trace, &cut, most, 300, out).map(drop)));
    let lines = written(&|out| jsonl(&trace, &everything, out));
    let lines = String::from_utf8(lines).expect("JSON is UTF-8");
    let parse = |text| drop(serde_json::from_str::<Value>(text).expect("it is JSON"));
    lines.lines().for_each(parse);
    assert_eq!(lines.lines().count(), 1 + events(&trace).count());
    let page = written(&|out| page(&trace, &cut, most, "any", out).map(drop));
    let page = String::from_utf8(page).expect("a page is UTF-8");
    let (_, data) = page.split_once("id=\"data\">").expect("a page has data");
    parse(data.split_once("</script>").expect("they end").0);
}

/// The bytes behind the marks of a trace, of few slots, so that what is in it is looked at.
pub(crate) fn admitted(bytes: &[u8]) -> Option<Vec<u8>> {
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
    let writers = u32::from(bytes[108] % Writers::ALL.len() as u8);
    bytes[108..112].copy_from_slice(&writers.to_ne_bytes());
    assert!(Header::parse(&bytes).is_ok(), "so it is let in");
    Some(bytes)
}
