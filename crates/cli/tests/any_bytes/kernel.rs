//! Any bytes as the kernel's tracing files: `format` files and pages of the buffers. Only root can
//! write there, but a future kernel may have any format.

use std::fmt::Write;

use proactor_trace::kernel::{
    KernelEvent, Layout, PageEntries, PageLayout, Sidecar, Tracepoint, TracepointDecoder,
};
use proactor_trace::view::{Cut, Summary, TraceStats};
use proactor_trace::{About, Record, Recorder, Settings, Trace, TraceFile, WatchedRings};

/// The header of a page, as `events/header_page` has it.
pub(crate) const PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                    \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                    \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";
/// Bytes of an event as the [formats](format) here lay it out.
const EVENT: usize = 52;

/// As a text, as a page, and as the events of a page.
pub(crate) fn kernel(bytes: &[u8]) {
    text(&String::from_utf8_lossy(bytes), bytes);
    let shape = PageLayout::parse(PAGE).expect("a page's header");
    let mut decoder = TracepointDecoder::default();
    for &point in Tracepoint::ALL {
        assert!(decoder.learn(point, &format(point)));
    }
    let mut events = decoded(&decoder, shape.read(bytes).0);
    let header = [&1000u64.to_ne_bytes()[..], &(bytes.len() as u64).to_ne_bytes()].concat();
    let page = [&header, bytes].concat();
    events.extend(decoded(&decoder, shape.read(&page).0));
    events.extend(decoder.decode(0, bytes));
    views(events);
}

/// What a text might be: a page's header, or the format of any tracepoint.
fn text(text: &str, page: &[u8]) {
    if let Some(shape) = PageLayout::parse(text) {
        let (entries, _) = shape.read(page);
        assert!(entries.count() <= page.len() / 4, "more events than words");
    }
    let Some(layout) = Layout::parse(text) else { return };
    // An event of its, whatever follows.
    let event = [&layout.id.to_ne_bytes()[..], page].concat();
    for &point in Tracepoint::ALL {
        let mut decoder = TracepointDecoder::default();
        decoder.learn(point, text);
        decoder.decode(0, &event);
    }
}

fn decoded(decoder: &TracepointDecoder, entries: PageEntries<'_>) -> Vec<KernelEvent> {
    entries.filter_map(|(time, event)| decoder.decode(time, event)).collect()
}

/// All views of kernel events.
fn views(mut events: Vec<KernelEvent>) {
    thread_local!(static TRACE: Trace = some_trace());
    TRACE.with(|trace| {
        events.iter().for_each(|event| drop((event.line(), event.json())));
        let ours = std::process::id();
        let mut attached = WatchedRings::new(ours).expect("we run");
        attached.begin(true).expect("we run");
        for event in &mut events {
            // Rings of other processes are ignored.
            if event.thread & 1 == 0 || event.tracepoint == Tracepoint::Create {
                event.thread = ours as i32;
            }
            event.ring &= 3;
            if let Some(event) = attached.observe(event) {
                drop((event.text(), event.json()));
            }
        }
        drop((attached.summary(), attached.json()));
        let sidecar = Sidecar { events, has_sleeps: true, ..Sidecar::default() };
        let trace = TraceFile::new(trace.clone(), Some(sidecar));
        let stats = TraceStats::of(&trace, &Cut::default());
        drop((stats.kernel.as_ref().map(ToString::to_string), serde_json::json!(stats)));
        let text = Summary { stats }.to_string();
        assert!(text.contains("posted → reaped"), "{text}");
    });
}

/// A recording of completions that may match the events.
fn some_trace() -> Trace {
    let least = Settings { bytes: 0, ..Settings::default() };
    let mut log = Recorder::new(None, &least, &About::default()).expect("memory");
    for id in 0..64 {
        log.write_at(id, Record::completed(id % 4, 0, 0, 0));
    }
    Trace::from_bytes(log.bytes()).expect("a trace")
}

/// A tracepoint's `format` file, with every field that any of them has.
pub(crate) fn format(point: Tracepoint) -> String {
    let mut text = format!("name: {}\nID: {}\nformat:\n", point.name(), 1 + point as u16);
    let fields = [
        ("unsigned short common_type", 0, 2, 0),
        ("int common_pid", 4, 4, 1),
        ("void * ctx", 8, 8, 0),
        ("void * req", 16, 8, 0),
        ("unsigned long long user_data", 24, 8, 0),
        ("int res", 32, 4, 1),
        ("unsigned cflags", 36, 4, 0),
        ("int error", 32, 4, 1),
        ("int fd", 32, 4, 1),
        ("u32 sq_entries", 36, 4, 0),
        ("u32 cq_entries", 40, 4, 0),
        ("u32 flags", 44, 4, 0),
        ("bool sq_thread", 32, 1, 0),
        ("int count", 32, 4, 1),
        ("int min_events", 32, 4, 1),
        ("u8 opcode", 48, 1, 0),
        ("int sig", 32, 4, 1),
        ("int pid", 32, 4, 1),
        ("u64 clone_flags", 40, 8, 0),
        ("char comm[16]", 40, 16, 0),
        ("char newcomm[16]", 40, 16, 0),
    ];
    for (declared, offset, size, signed) in fields {
        let line = format!("\tfield:{declared};\toffset:{offset};\tsize:{size};\tsigned:{signed};");
        writeln!(text, "{line}").expect("a text can be written to");
    }
    text
}

/// Events of every tracepoint, as they stand on a page behind its header.
pub(crate) fn events() -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..60u64 {
        let point = Tracepoint::ALL[n as usize % Tracepoint::ALL.len()];
        let mut event = [0; EVENT];
        event[..2].copy_from_slice(&(1 + point as u16).to_ne_bytes());
        event[4..8].copy_from_slice(&(n as u32).to_ne_bytes());
        for (at, value) in [(8, n % 3), (16, n / 11), (24, n / 11), (32, n % 7)] {
            event[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        event[48] = (n % 60) as u8;
        // Thirteen words, seven ticks after the last.
        let words = EVENT as u32 / 4;
        let head = if cfg!(target_endian = "little") { words | 7 << 5 } else { words << 27 | 7 };
        bytes.extend(head.to_ne_bytes());
        bytes.extend(event);
    }
    bytes
}
