//! The kernel's tracepoints of io_uring, and what each tells: typed, whatever kernel it is.

use super::layout::{Field, Layout};

/// A tracepoint of io_uring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Point {
    /// A ring was made.
    Create,
    /// A submission was taken and found to be well-formed.
    Submit,
    /// A submission was refused before it began. It completes with an error all the same.
    Refuse,
    /// A completion was put into the queue.
    Complete,
    /// A completion was put aside, since the queue was full. It is not told of again when it is put
    /// into the queue.
    Overflow,
    /// What an operation waits for has come: its work goes on when its task has time for it.
    Arrive,
    /// A thread of the kernel is to do the work: it might block.
    Punt,
    /// An operation waits by polling.
    Arm,
    /// The work that was deferred to an enter was done.
    Work,
    /// A task sleeps until there are completions.
    Wait,
    /// A link was broken.
    FailLink,
}

impl Point {
    /// All of them, in the order of their numbers.
    pub const ALL: [Point; 11] = [
        Point::Create,
        Point::Submit,
        Point::Refuse,
        Point::Complete,
        Point::Overflow,
        Point::Arrive,
        Point::Punt,
        Point::Arm,
        Point::Work,
        Point::Wait,
        Point::FailLink,
    ];

    /// What the tracepoint is called, and was called on older kernels.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Point::Create => &["io_uring_create"],
            // Renamed in 6.3.
            Point::Submit => &["io_uring_submit_req", "io_uring_submit_sqe"],
            // Since 5.16.
            Point::Refuse => &["io_uring_req_failed"],
            Point::Complete => &["io_uring_complete"],
            // Since 5.19.
            Point::Overflow => &["io_uring_cqe_overflow"],
            Point::Arrive => &["io_uring_task_add"],
            Point::Punt => &["io_uring_queue_async_work"],
            Point::Arm => &["io_uring_poll_arm"],
            // Since 6.1.
            Point::Work => &["io_uring_local_work_run"],
            Point::Wait => &["io_uring_cqring_wait"],
            Point::FailLink => &["io_uring_fail_link"],
        }
    }
}

/// Something that a kernel told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// When, in ticks of the trace's clock.
    pub time: u64,
    /// Which thread ran: not always one that the ring belongs to.
    pub thread: i32,
    /// Which ring: an address, good for nothing but to tell rings apart.
    pub ring: u64,
    /// Which request: an address likewise; zero if it is not told.
    pub request: u64,
    /// What the submission was given to travel with it; zero if it is not told (of [`Tale::Punted`]
    /// on 5.10).
    pub user_data: u64,
    /// `IORING_OP_*`, if that is told.
    pub opcode: Option<u8>,
    /// What.
    pub what: Tale,
}

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tale {
    /// [`Point::Create`]
    Created {
        /// Its descriptor.
        fd: i32,
        /// Entries of its submission queue.
        submissions: u32,
        /// Entries of its completion queue.
        completions: u32,
        /// `IORING_SETUP_*`
        flags: u32,
    },
    /// [`Point::Submit`]
    Submitted {
        /// Whether a thread of the kernel took it off the queue (`SQPOLL`).
        by_kernel: bool,
    },
    /// [`Point::Refuse`]
    Refused {
        /// Minus an errno.
        error: i32,
    },
    /// [`Point::Complete`]
    Completed {
        /// A result, or minus an errno.
        res: i32,
        /// `IORING_CQE_F_*`; zero on kernels that do not tell.
        flags: u32,
    },
    /// [`Point::Overflow`]
    Overflowed {
        /// A result, or minus an errno.
        res: i32,
        /// `IORING_CQE_F_*`
        flags: u32,
    },
    /// [`Point::Arrive`]
    Arrived,
    /// [`Point::Punt`]
    Punted,
    /// [`Point::Arm`]
    Armed,
    /// [`Point::Work`]
    Worked {
        /// So many pieces of work.
        count: u32,
    },
    /// [`Point::Wait`]
    Waited {
        /// For so many completions.
        least: u32,
    },
    /// [`Point::FailLink`]
    LinkFailed,
}

impl Tale {
    /// A word for it, as lines and JSON have it.
    pub fn name(&self) -> &'static str {
        match self {
            Tale::Created { .. } => "create",
            Tale::Submitted { .. } => "submit",
            Tale::Refused { .. } => "refuse",
            Tale::Completed { .. } => "post",
            Tale::Overflowed { .. } => "aside",
            Tale::Arrived => "arrive",
            Tale::Punted => "punt",
            Tale::Armed => "poll",
            Tale::Worked { .. } => "work",
            Tale::Waited { .. } => "wait",
            Tale::LinkFailed => "unlink",
        }
    }
}

/// Makes [`Told`]s of events, for a kernel of which the formats are known.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    /// By the number of the event.
    points: Vec<(u16, Point, Places)>,
    number: Option<Field>,
    thread: Option<Field>,
}

/// Where a tracepoint keeps what is wanted of it.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    ring: Option<Field>,
    request: Option<Field>,
    user_data: Option<Field>,
    opcode: Option<Field>,
    /// What differs from point to point.
    own: [Option<Field>; 4],
}

impl Decoder {
    /// Learns where a tracepoint keeps its fields, from its `format` file. Answers whether all that
    /// is needed is there.
    pub fn learn(&mut self, point: Point, format: &str) -> bool {
        let Some(layout) = Layout::parse(format) else { return false };
        let own: &[&[&str]] = match point {
            Point::Create => &[&["fd"], &["sq_entries"], &["cq_entries"], &["flags"]],
            Point::Submit => &[&["sq_thread"]],
            Point::Refuse => &[&["error"]],
            Point::Complete | Point::Overflow => &[&["res"], &["cflags"]],
            Point::Work => &[&["count"]],
            Point::Wait => &[&["min_events"]],
            Point::Arrive | Point::Punt | Point::Arm | Point::FailLink => &[],
        };
        let mut places = Places {
            ring: layout.field(&["ctx"]),
            request: layout.field(&["req"]),
            user_data: layout.field(&["user_data", "data"]),
            opcode: layout.field(&["opcode"]),
            own: [None; 4],
        };
        for (place, names) in places.own.iter_mut().zip(own) {
            *place = layout.field(names);
        }
        let named = match point {
            Point::Create | Point::Work | Point::Wait => true,
            Point::Complete | Point::Overflow => {
                places.user_data.is_some() && places.own[0].is_some()
            }
            // 5.10 tells the request alone, which its submission has named.
            Point::Punt => places.user_data.is_some() || places.request.is_some(),
            _ => places.user_data.is_some(),
        };
        self.number = layout.field(&["common_type"]);
        self.thread = layout.field(&["common_pid"]);
        let whole = named && places.ring.is_some() && self.number.is_some();
        if whole {
            self.points.push((layout.id, point, places));
        }
        whole
    }

    /// Whether completions are told with their flags, as far as they are told at all.
    pub fn has_flags(&self) -> bool {
        let told = self.points.iter().filter(|(_, point, _)| *point == Point::Complete);
        told.into_iter().all(|(.., places)| places.own[1].is_some())
    }

    /// What an event tells; `None` if it is none of those that were learnt, or is cut short.
    pub fn decode(&self, time: u64, bytes: &[u8]) -> Option<Told> {
        let number = self.number?.read(bytes)?;
        let (_, point, places) = self.points.iter().find(|(id, ..)| u64::from(*id) == number)?;
        let read = |field: Option<Field>| field.and_then(|field| field.read(bytes));
        let own = places.own.map(|field| read(field).unwrap_or(0));
        let what = match point {
            Point::Create => Tale::Created {
                fd: own[0] as i32,
                submissions: own[1] as u32,
                completions: own[2] as u32,
                flags: own[3] as u32,
            },
            Point::Submit => Tale::Submitted { by_kernel: own[0] & 0xff != 0 },
            Point::Refuse => Tale::Refused { error: own[0] as i32 },
            Point::Complete => Tale::Completed { res: own[0] as i32, flags: own[1] as u32 },
            Point::Overflow => Tale::Overflowed { res: own[0] as i32, flags: own[1] as u32 },
            Point::Arrive => Tale::Arrived,
            Point::Punt => Tale::Punted,
            Point::Arm => Tale::Armed,
            Point::Work => Tale::Worked { count: own[0] as u32 },
            Point::Wait => Tale::Waited { least: own[0] as u32 },
            Point::FailLink => Tale::LinkFailed,
        };
        Some(Told {
            time,
            thread: read(self.thread).unwrap_or(0) as i32,
            ring: read(places.ring)?,
            request: read(places.request).unwrap_or(0),
            user_data: read(places.user_data).unwrap_or(0),
            opcode: read(places.opcode).map(|code| code as u8),
            what,
        })
    }
}

/// The operations by their numbers (`enum io_uring_op`), to Linux 7.2.
const OPERATIONS: [&str; 65] = [
    "nop",
    "readv",
    "writev",
    "fsync",
    "read_fixed",
    "write_fixed",
    "poll",
    "poll_remove",
    "sync_range",
    "sendmsg",
    "recvmsg",
    "timeout",
    "timeout_rm",
    "accept",
    "cancel",
    "link_timeout",
    "connect",
    "fallocate",
    "openat",
    "close",
    "files_update",
    "statx",
    "read",
    "write",
    "fadvise",
    "madvise",
    "send",
    "recv",
    "openat2",
    "epoll_ctl",
    "splice",
    "give_buffers",
    "take_buffers",
    "tee",
    "shutdown",
    "renameat",
    "unlinkat",
    "mkdirat",
    "symlinkat",
    "linkat",
    "msg_ring",
    "fsetxattr",
    "setxattr",
    "fgetxattr",
    "getxattr",
    "socket",
    "uring_cmd",
    "send_zc",
    "sendmsg_zc",
    "read_multi",
    "waitid",
    "futex_wait",
    "futex_wake",
    "futex_waitv",
    "install_fd",
    "ftruncate",
    "bind",
    "listen",
    "recv_zc",
    "epoll_wait",
    "readv_fixed",
    "writev_fixed",
    "pipe",
    "nop128",
    "uring_cmd128",
];

/// What an operation is called; `op 70`, if it has no name here.
pub fn operation(opcode: u8) -> String {
    OPERATIONS.get(usize::from(opcode)).map_or_else(|| format!("op {opcode}"), |&n| n.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
                          \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\
                          \tfield:void * ctx;\toffset:8;\tsize:8;\tsigned:0;\n";

    fn format(id: u16, fields: &[(&str, usize, usize, u8)]) -> String {
        let own = fields.iter().map(|(declared, offset, size, signed)| {
            format!("\tfield:{declared};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n")
        });
        format!("name: x\nID: {id}\nformat:\n{COMMON}\n{}", own.collect::<String>())
    }

    fn event(id: u16, rest: &[u8]) -> Vec<u8> {
        let head = [&id.to_ne_bytes()[..], &[0, 0], &77i32.to_ne_bytes(), &9u64.to_ne_bytes()];
        [&head.concat(), rest].concat()
    }

    #[test]
    fn a_submission_is_read_in_the_layout_of_6_18_and_of_5_10() {
        // 6.18: submit_req, with the request before the user data.
        let new = format(
            5,
            &[
                ("void * req", 16, 8, 0),
                ("unsigned long long user_data", 24, 8, 0),
                ("u8 opcode", 32, 1, 0),
                ("unsigned long long flags", 40, 8, 0),
                ("bool sq_thread", 48, 1, 0),
            ],
        );
        // 5.10: submit_sqe, with the opcode first and no request.
        let old = format(
            6,
            &[
                ("u8 opcode", 16, 1, 0),
                ("u64 user_data", 24, 8, 0),
                ("bool force_nonblock", 32, 1, 0),
                ("bool sq_thread", 33, 1, 0),
            ],
        );
        let mut decoder = Decoder::default();
        assert!(decoder.learn(Point::Submit, &new) && decoder.learn(Point::Submit, &old));
        let mut rest = [0u8; 40];
        rest[..8].copy_from_slice(&3u64.to_ne_bytes());
        rest[8..16].copy_from_slice(&42u64.to_ne_bytes());
        rest[16] = 27;
        let told = decoder.decode(1, &event(5, &rest)).expect("an event");
        assert_eq!((told.thread, told.ring, told.request), (77, 9, 3));
        assert_eq!((told.user_data, told.opcode), (42, Some(27)));
        rest[0] = 13;
        rest[17] = 1;
        let told = decoder.decode(1, &event(6, &rest)).expect("an event");
        assert_eq!((told.request, told.user_data, told.opcode), (0, 42, Some(13)));
        assert_eq!(told.what, Tale::Submitted { by_kernel: true });
    }

    #[test]
    fn a_completion_without_flags_is_one_and_one_without_a_name_is_not() {
        // 5.6: a long for the result, and no flags.
        let old = format(7, &[("u64 user_data", 16, 8, 0), ("long res", 24, 8, 1)]);
        let mut decoder = Decoder::default();
        assert!(decoder.learn(Point::Complete, &old));
        let rest = [&1u64.to_ne_bytes()[..], &(-11i64).to_ne_bytes()].concat();
        let told = decoder.decode(0, &event(7, &rest)).expect("an event");
        assert_eq!(told.what, Tale::Completed { res: -11, flags: 0 });
        // 5.10's fail_link had a request and nothing else.
        assert!(!decoder.learn(Point::FailLink, &format(8, &[("void * req", 16, 8, 0)])));
        assert!(!decoder.learn(Point::Complete, &format(9, &[("int res", 16, 4, 1)])));
    }

    #[test]
    fn what_is_unknown_or_cut_short_is_nothing() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(0, &[0; 64]), None);
        assert!(decoder.learn(Point::Work, &format(7, &[("int count", 16, 4, 1)])));
        assert_eq!(decoder.decode(0, &event(8, &[0; 40])), None);
        for len in 0..16 {
            assert_eq!(decoder.decode(0, &event(7, &[])[..len]), None);
        }
        let told = decoder.decode(0, &event(7, &[])).expect("a count that is cut off is zero");
        assert_eq!(told.what, Tale::Worked { count: 0 });
    }

    #[test]
    fn operations_have_the_names_of_their_numbers() {
        for (code, name) in [
            (13, "accept"),
            (14, "cancel"),
            (19, "close"),
            (27, "recv"),
            (34, "shutdown"),
            (45, "socket"),
            (47, "send_zc"),
            (62, "pipe"),
            (200, "op 200"),
        ] {
            assert_eq!(operation(code), name);
        }
    }
}
