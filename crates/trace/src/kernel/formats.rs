//! The formats of real kernels, as their `events/io_uring/*/format` have them, and what is made of
//! them: so a machine with another kernel holds it too.

use super::{Decoder, Lack, Layout, Point, Tale};

/// By version: the texts of those tracepoints that are known here.
const KERNELS: [(&str, &str); 4] = [
    ("5.10", include_str!("formats/5.10.txt")), // Debian's, with the io_uring of 5.15
    ("6.1", include_str!("formats/6.1.txt")),
    ("6.12", include_str!("formats/6.12.txt")),
    ("6.18", include_str!("formats/6.18.txt")),
];

/// The format of a tracepoint on that kernel.
fn format(kernel: &str, name: &str) -> Option<&'static str> {
    let (_, texts) = KERNELS.iter().find(|(version, _)| *version == kernel).expect("it is kept");
    let named = |text: &&str| text.lines().next() == Some(name);
    texts.split("name: ").find(named)
}

/// What is learnt of a kernel, and what it lacks.
fn learnt(kernel: &str) -> (Decoder, Vec<Lack>) {
    let mut decoder = Decoder::default();
    let mut learn = |point: &Point| {
        let texts = point.names().iter().filter_map(|name| format(kernel, name));
        texts.into_iter().any(|text| decoder.learn(*point, text))
    };
    let lacks = Point::ALL.into_iter().filter(|point| !learn(point)).filter_map(Lack::of).collect();
    (decoder, lacks)
}

/// An event of that point, as that kernel would write it: these fields have these values, all
/// others are filled with ones.
fn event(kernel: &str, point: Point, values: &[(&str, u64)]) -> Vec<u8> {
    let text = point.names().iter().find_map(|name| format(kernel, name)).expect("it has one");
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
fn what_a_kernel_does_not_tell_is_known() {
    let old = [Point::Refuse, Point::Overflow, Point::FailLink].map(Lack::Point);
    for (kernel, lacks) in [("5.10", &old[..]), ("6.1", &[]), ("6.12", &[]), ("6.18", &[])] {
        let (decoder, found) = learnt(kernel);
        assert_eq!(found, lacks, "{kernel}");
        assert!(decoder.has_flags(), "{kernel}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn every_point_of_every_kernel_is_read_field_by_field() {
    const RES: u64 = -104i64 as u64;
    for (kernel, _) in KERNELS {
        let (decoder, lacks) = learnt(kernel);
        let told = |point: Point, own: &[(&str, u64)]| {
            let common = [("common_pid", 77), ("ctx", 0xc0), ("req", 0xe0), ("opcode", 27)];
            let named = [("user_data", 0x0123_4567_89ab_cdef)];
            let values: Vec<_> = common.iter().chain(&named).chain(own).copied().collect();
            let told = decoder.decode(5, &event(kernel, point, &values));
            let told = told.unwrap_or_else(|| panic!("{kernel} {point:?}"));
            assert_eq!((told.time, told.thread, told.ring), (5, 77, 0xc0), "{kernel} {point:?}");
            told
        };
        let res = [("res", RES), ("cflags", 0x0003_0002)];
        let made = [("fd", 9), ("sq_entries", 128), ("cq_entries", 256), ("flags", 0x3000)];
        for (point, own, what) in [
            (
                Point::Create,
                &made[..],
                Tale::Created { fd: 9, submissions: 128, completions: 256, flags: 0x3000 },
            ),
            (Point::Submit, &[("sq_thread", 1)], Tale::Submitted { by_kernel: true }),
            (Point::Submit, &[("sq_thread", 0)], Tale::Submitted { by_kernel: false }),
            (Point::Refuse, &[("error", -22i64 as u64)], Tale::Refused { error: -22 }),
            (Point::Complete, &res, Tale::Completed { res: -104, flags: 0x0003_0002 }),
            (Point::Overflow, &res, Tale::Overflowed { res: -104, flags: 0x0003_0002 }),
            (Point::Arrive, &[], Tale::Arrived),
            (Point::Punt, &[], Tale::Punted),
            (Point::Arm, &[], Tale::Armed),
            (Point::Wait, &[("min_events", 3)], Tale::Waited { least: 3 }),
            (Point::FailLink, &[], Tale::LinkFailed),
        ] {
            if lacks.contains(&Lack::Point(point)) {
                continue;
            }
            let told = told(point, own);
            assert_eq!(told.what, what, "{kernel}");
            let is_of_one = !matches!(point, Point::Create | Point::Wait);
            let told_of = told.user_data == 0x0123_4567_89ab_cdef;
            let bare = (kernel, point) == ("5.10", Point::Punt);
            assert_eq!(told_of, is_of_one && !bare, "{kernel} {point:?}");
            // A completion says of which operation it is by its user data alone.
            let has_opcode = matches!(
                point,
                Point::Submit | Point::Refuse | Point::Arrive | Point::Punt | Point::Arm
            ) && !bare
                || point == Point::FailLink;
            assert_eq!(told.opcode == Some(27), has_opcode, "{kernel} {point:?}");
        }
    }
}

#[test]
#[cfg(target_endian = "little")]
fn what_5_10_hands_to_its_threads_is_known_by_its_request() {
    let (decoder, _) = learnt("5.10");
    let bytes = event("5.10", Point::Punt, &[("ctx", 1), ("req", 0xe0)]);
    let told = decoder.decode(0, &bytes).expect("an event");
    assert_eq!((told.request, told.user_data, told.opcode), (0xe0, 0, None));
}
