//! Tests with the formats of real kernels, copied from their `events/io_uring/*/format`, so that
//! one machine checks the decoder for several kernels.

use super::{Layout, Missing, Tracepoint, TracepointDecoder};

/// By version, the formats of the tracepoints that are decoded.
const KERNELS: [(&str, &str); 4] = [
    ("5.10", include_str!("formats/5.10.txt")), // Debian's, with the io_uring of 5.15
    ("6.1", include_str!("formats/6.1.txt")),
    ("6.12", include_str!("formats/6.12.txt")),
    ("6.18", include_str!("formats/6.18.txt")),
];

/// Returns the format of a tracepoint on a kernel.
fn format(kernel: &str, name: &str) -> Option<&'static str> {
    let (_, texts) =
        KERNELS.iter().find(|(version, _)| *version == kernel).expect("a listed kernel");
    let named = |text: &&str| text.lines().next() == Some(name);
    texts.split("name: ").find(named)
}

/// Learns all tracepoints of a kernel; also returns what it does not have.
pub(super) fn learn(kernel: &str) -> (TracepointDecoder, Vec<Missing>) {
    let mut decoder = TracepointDecoder::default();
    let mut learn_one = |tracepoint: &Tracepoint| {
        let texts = tracepoint.names().filter_map(|name| format(kernel, name));
        { texts }.any(|text| decoder.learn(*tracepoint, text))
    };
    let missing = Tracepoint::ALL.iter().filter(|tracepoint| !learn_one(tracepoint));
    // The formats of the rest were copied from one kernel.
    let missing = missing.copied().filter(|&point| point as u8 <= Tracepoint::FailLink as u8);
    let missing = missing.filter_map(Missing::of).collect();
    (decoder, missing)
}

/// Makes an event as the kernel would write it. These fields have these values; all others are
/// filled with ones.
pub(super) fn event(kernel: &str, tracepoint: Tracepoint, values: &[(&str, u64)]) -> Vec<u8> {
    let text = tracepoint.names().find_map(|name| format(kernel, name)).expect("the kernel has it");
    let layout = Layout::parse(text).expect("a format");
    let mut bytes = vec![0xff; 128];
    for (name, value) in [("common_type", u64::from(layout.id))].iter().chain(values) {
        let Some(field) = layout.field(&[name]) else { continue };
        let part = &mut bytes[field.offset..field.offset + field.size];
        part.copy_from_slice(&value.to_le_bytes()[..field.size]);
    }
    bytes
}

#[test]
fn missing_tracepoints_are_found() {
    let old = [Tracepoint::ReqFailed, Tracepoint::CqeOverflow, Tracepoint::FailLink]
        .map(Missing::Tracepoint);
    for (kernel, missing) in [("5.10", &old[..]), ("6.1", &[]), ("6.12", &[]), ("6.18", &[])] {
        let (decoder, found) = learn(kernel);
        assert_eq!(found, missing, "{kernel}");
        assert_eq!((decoder.has_flags(), decoder.names_requests()), (true, kernel != "5.10"));
    }
}

const COMPLETION: [(&str, u64); 2] = [("res", -104i64 as u64), ("cflags", 0x0003_0002)];
const CREATION: [(&str, u64); 4] =
    [("fd", 9), ("sq_entries", 128), ("cq_entries", 256), ("flags", 0x3000)];

/// The fields of a tracepoint with their values.
type EventFields = [(&'static str, u64)];

/// Each tracepoint with values of its own fields, and what they are decoded to.
const EVENTS: [(Tracepoint, &EventFields, [i64; 4]); 17] = [
    (Tracepoint::Create, &CREATION, [9, 0x3000, 128, 256]),
    (Tracepoint::SubmitReq, &[("sq_thread", 1)], [1, 0, 0, 0]),
    (Tracepoint::SubmitReq, &[("sq_thread", 0)], [0; 4]),
    (Tracepoint::ReqFailed, &[("error", -22i64 as u64)], [-22, 0, 0, 0]),
    (Tracepoint::Complete, &COMPLETION, [-104, 0x0003_0002, 0, 0]),
    (Tracepoint::CqeOverflow, &COMPLETION, [-104, 0x0003_0002, 0, 0]),
    (Tracepoint::TaskAdd, &[], [0; 4]),
    (Tracepoint::QueueAsyncWork, &[], [0; 4]),
    (Tracepoint::PollArm, &[], [0; 4]),
    (Tracepoint::LocalWorkRun, &[("count", 7), ("loops", 2)], [7, 0, 0, 0]),
    (Tracepoint::CqringWait, &[("min_events", 3)], [3, 0, 0, 0]),
    (Tracepoint::FailLink, &[], [0; 4]),
    (Tracepoint::FileGet, &[("fd", 12)], [12, 0, 0, 0]),
    (Tracepoint::Enter, &[], [0; 4]),
    // A name has two of the values.
    (Tracepoint::NewTask, &[("pid", 78), ("clone_flags", 0x10000)], [78, 0x10000, -1, -1]),
    (Tracepoint::Rename, &[("pid", 78)], [78, -1, -1, 0]),
    (Tracepoint::Signal, &[("sig", 28), ("pid", 78)], [28, 78, 0, 0]),
];

#[test]
#[cfg(target_endian = "little")]
fn every_tracepoint_of_every_kernel_is_decoded_field_by_field() {
    const USER_DATA: u64 = 0x0123_4567_89ab_cdef;
    for (kernel, _) in KERNELS {
        let (decoder, missing) = learn(kernel);
        for (tracepoint, own, decoded) in EVENTS {
            // Nothing is missing without the runs of deferred work: there are none before 6.1.
            let is_there = tracepoint.names().any(|name| format(kernel, name).is_some());
            if !is_there || missing.contains(&Missing::Tracepoint(tracepoint)) {
                continue;
            }
            let about = format!("{kernel} {tracepoint:?}");
            let common = [("common_pid", 77), ("ctx", 0xc0), ("req", 0xe0), ("opcode", 27)];
            let user_data = [("user_data", USER_DATA)];
            let values: Vec<_> = common.iter().chain(&user_data).chain(own).copied().collect();
            let event = decoder.decode(5, &event(kernel, tracepoint, &values)).expect(&about);
            let ring = if tracepoint.is_of_ring() { 0xc0 } else { 0 };
            assert_eq!((event.time, event.thread, event.ring), (5, 77, ring), "{about}");
            assert_eq!(event.tracepoint, tracepoint, "{about}");
            assert_eq!(event.own.map(|value| i64::from(value as i32)), decoded, "{about}");
            let is_bare = (kernel, tracepoint) == ("5.10", Tracepoint::QueueAsyncWork);
            let is_identified = tracepoint.is_of_request() && !is_bare;
            assert_eq!(event.user_data == USER_DATA, is_identified, "{about}");
            // Completions do not have the opcode.
            let has_opcode =
                is_identified && event.completion().is_none() && tracepoint != Tracepoint::FileGet;
            assert_eq!(event.opcode == Some(27), has_opcode, "{about}");
        }
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_punted_request_of_5_10_has_only_its_address() {
    let (decoder, _) = learn("5.10");
    let bytes = event("5.10", Tracepoint::QueueAsyncWork, &[("ctx", 1), ("req", 0xe0)]);
    let event = decoder.decode(0, &bytes).expect("an event");
    assert_eq!((event.request, event.user_data, event.opcode), (0xe0, 0, None));
}
