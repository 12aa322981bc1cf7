//! The kernel's io_uring tracepoints and their events, typed, for every kernel version.

use super::layout::{Field, Layout};
use proactor::ring::Cqe;
use proactor_record::Errno;

/// An io_uring tracepoint. The variants have the kernel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Tracepoint {
    /// A ring was created.
    Create,
    /// A submission was read from the queue and is well-formed.
    SubmitReq,
    /// A submission was rejected before it started. It completes with an error as well.
    ReqFailed,
    /// A completion was posted to the queue.
    Complete,
    /// A completion was stored outside the queue because the queue was full. No second event
    /// follows when it moves into the queue.
    CqeOverflow,
    /// What a request waited for has arrived. Its work is queued to its task.
    TaskAdd,
    /// A request was handed to a worker thread (io-wq) because it might block.
    QueueAsyncWork,
    /// A request waits by polling.
    PollArm,
    /// Work that was deferred to an enter was run.
    LocalWorkRun,
    /// A task sleeps until there are completions.
    CqringWait,
    /// A linked request failed, and the rest of its chain is cancelled.
    FailLink,
}

impl Tracepoint {
    /// All tracepoints, in the order of their numbers.
    pub const ALL: [Tracepoint; 11] = [
        Tracepoint::Create,
        Tracepoint::SubmitReq,
        Tracepoint::ReqFailed,
        Tracepoint::Complete,
        Tracepoint::CqeOverflow,
        Tracepoint::TaskAdd,
        Tracepoint::QueueAsyncWork,
        Tracepoint::PollArm,
        Tracepoint::LocalWorkRun,
        Tracepoint::CqringWait,
        Tracepoint::FailLink,
    ];

    /// The tracepoint's name, and its name on older kernels.
    pub fn names(self) -> &'static [&'static str] {
        self.spec().0
    }

    /// The names, and the fields that only this tracepoint has.
    fn spec(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Tracepoint::Create => {
                (&["io_uring_create"], &["fd", "sq_entries", "cq_entries", "flags"])
            }
            // Renamed in 6.3.
            Tracepoint::SubmitReq => {
                (&["io_uring_submit_req", "io_uring_submit_sqe"], &["sq_thread"])
            }
            // Since 5.16.
            Tracepoint::ReqFailed => (&["io_uring_req_failed"], &["error"]),
            Tracepoint::Complete => (&["io_uring_complete"], &["res", "cflags"]),
            // Since 5.19.
            Tracepoint::CqeOverflow => (&["io_uring_cqe_overflow"], &["res", "cflags"]),
            Tracepoint::TaskAdd => (&["io_uring_task_add"], &[]),
            Tracepoint::QueueAsyncWork => (&["io_uring_queue_async_work"], &[]),
            Tracepoint::PollArm => (&["io_uring_poll_arm"], &[]),
            // Since 6.1.
            Tracepoint::LocalWorkRun => (&["io_uring_local_work_run"], &["count"]),
            Tracepoint::CqringWait => (&["io_uring_cqring_wait"], &["min_events"]),
            Tracepoint::FailLink => (&["io_uring_fail_link"], &[]),
        }
    }
}

/// One event of a tracepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelEvent {
    /// Time in ticks of the trace's clock.
    pub time: u64,
    /// The thread that ran. It does not always belong to the ring's process.
    pub thread: i32,
    /// The ring's address in the kernel: it identifies the ring and has no other use.
    pub ring: u64,
    /// The request's address in the kernel; zero if the tracepoint does not have it.
    pub request: u64,
    /// The submission's user data; zero if the tracepoint does not have it
    /// ([`KernelEventKind::Punted`] on 5.10).
    pub user_data: u64,
    /// `IORING_OP_*`, if the tracepoint has it.
    pub opcode: Option<u8>,
    /// The tracepoint and its own fields.
    pub kind: KernelEventKind,
}

/// The tracepoint of an event and the fields that only this tracepoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelEventKind {
    /// An event of [`Tracepoint::Create`].
    Created {
        /// The descriptor of the ring.
        fd: i32,
        /// Entries of the submission queue.
        submissions: u32,
        /// Entries of the completion queue.
        completions: u32,
        /// The flags of the ring, `IORING_SETUP_*`.
        flags: u32,
    },
    /// An event of [`Tracepoint::SubmitReq`].
    Submitted {
        /// Whether a kernel thread read it from the queue (`SQPOLL`).
        by_kernel: bool,
    },
    /// An event of [`Tracepoint::ReqFailed`].
    Rejected {
        /// The error, a negative errno.
        error: i32,
    },
    /// An event of [`Tracepoint::Complete`].
    Completed {
        /// A result, or a negative errno.
        res: i32,
        /// `IORING_CQE_F_*`; zero on kernels whose tracepoint has no flags.
        flags: u32,
    },
    /// An event of [`Tracepoint::CqeOverflow`].
    Overflowed {
        /// A result, or a negative errno.
        res: i32,
        /// The flags of the completion, `IORING_CQE_F_*`.
        flags: u32,
    },
    /// An event of [`Tracepoint::TaskAdd`].
    Arrived,
    /// An event of [`Tracepoint::QueueAsyncWork`].
    Punted,
    /// An event of [`Tracepoint::PollArm`].
    PollArmed,
    /// An event of [`Tracepoint::LocalWorkRun`].
    WorkRun {
        /// How many pieces of work.
        count: u32,
    },
    /// An event of [`Tracepoint::CqringWait`].
    Waited {
        /// How many completions it waits for.
        least: u32,
    },
    /// An event of [`Tracepoint::FailLink`].
    LinkFailed,
}

impl KernelEventKind {
    /// Makes a kind of a tracepoint and the values of its [own fields](Tracepoint::spec).
    pub(super) fn of(tracepoint: Tracepoint, own: [u64; 4]) -> KernelEventKind {
        let (res, flags) = (own[0] as i32, own[1] as u32);
        match tracepoint {
            Tracepoint::Create => KernelEventKind::Created {
                fd: own[0] as i32,
                submissions: own[1] as u32,
                completions: own[2] as u32,
                flags: own[3] as u32,
            },
            Tracepoint::SubmitReq => KernelEventKind::Submitted { by_kernel: own[0] & 0xff != 0 },
            Tracepoint::ReqFailed => KernelEventKind::Rejected { error: res },
            Tracepoint::Complete => KernelEventKind::Completed { res, flags },
            Tracepoint::CqeOverflow => KernelEventKind::Overflowed { res, flags },
            Tracepoint::TaskAdd => KernelEventKind::Arrived,
            Tracepoint::QueueAsyncWork => KernelEventKind::Punted,
            Tracepoint::PollArm => KernelEventKind::PollArmed,
            Tracepoint::LocalWorkRun => KernelEventKind::WorkRun { count: own[0] as u32 },
            Tracepoint::CqringWait => KernelEventKind::Waited { least: own[0] as u32 },
            Tracepoint::FailLink => KernelEventKind::LinkFailed,
        }
    }

    /// The word for it in lines and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            KernelEventKind::Created { .. } => "create",
            KernelEventKind::Submitted { .. } => "submit",
            KernelEventKind::Rejected { .. } => "reject",
            KernelEventKind::Completed { .. } => "post",
            KernelEventKind::Overflowed { .. } => "overflow",
            KernelEventKind::Arrived => "arrive",
            KernelEventKind::Punted => "punt",
            KernelEventKind::PollArmed => "poll",
            KernelEventKind::WorkRun { .. } => "work",
            KernelEventKind::Waited { .. } => "wait",
            KernelEventKind::LinkFailed => "fail_link",
        }
    }

    /// The result and the flags of a completion, in the queue or outside it.
    pub fn completion(&self) -> Option<(i32, u32)> {
        match *self {
            KernelEventKind::Completed { res, flags }
            | KernelEventKind::Overflowed { res, flags } => Some((res, flags)),
            _ => None,
        }
    }

    /// Whether it is a completion and more completions of the same request follow.
    pub fn more(&self) -> bool {
        self.completion().is_some_and(|(_, flags)| flags & Cqe::MORE != 0)
    }

    /// Whether the event is about one request.
    pub fn is_of_request(&self) -> bool {
        !matches!(
            self,
            KernelEventKind::Created { .. }
                | KernelEventKind::Waited { .. }
                | KernelEventKind::WorkRun { .. }
        )
    }

    /// The result of a completion or of a rejected submission.
    pub fn result(&self) -> Option<Result<u32, Errno>> {
        let res = match *self {
            KernelEventKind::Rejected { error } => error,
            _ => self.completion()?.0,
        };
        Some(u32::try_from(res).map_err(|_| Errno(res.wrapping_neg())))
    }
}

/// Makes [`KernelEvent`]s of a kernel's bytes, after it has learned the kernel's formats.
#[derive(Debug, Clone, Default)]
pub struct TracepointDecoder {
    /// By the number of the event.
    tracepoints: Vec<(u16, Tracepoint, FieldSet)>,
    number: Option<Field>,
    thread: Option<Field>,
}

/// The positions of the fields that are read of one tracepoint.
#[derive(Debug, Clone, Copy, Default)]
struct FieldSet {
    ring: Option<Field>,
    request: Option<Field>,
    user_data: Option<Field>,
    opcode: Option<Field>,
    /// The fields of [`Tracepoint::spec`].
    own: [Option<Field>; 4],
}

impl TracepointDecoder {
    /// Learns the positions of a tracepoint's fields from its `format` file. Returns whether all
    /// required fields are there.
    pub fn learn(&mut self, tracepoint: Tracepoint, format: &str) -> bool {
        let Some(layout) = Layout::parse(format) else { return false };
        let mut fields = FieldSet {
            ring: layout.field(&["ctx"]),
            request: layout.field(&["req"]),
            user_data: layout.field(&["user_data", "data"]),
            opcode: layout.field(&["opcode"]),
            own: [None; 4],
        };
        for (field, name) in fields.own.iter_mut().zip(tracepoint.spec().1) {
            *field = layout.field(&[name]);
        }
        let identified = match tracepoint {
            Tracepoint::Create | Tracepoint::LocalWorkRun | Tracepoint::CqringWait => true,
            Tracepoint::Complete | Tracepoint::CqeOverflow => {
                fields.user_data.is_some() && fields.own[0].is_some()
            }
            // 5.10 has the request only, which is known from its submission.
            Tracepoint::QueueAsyncWork => fields.user_data.is_some() || fields.request.is_some(),
            _ => fields.user_data.is_some(),
        };
        self.number = layout.field(&["common_type"]);
        self.thread = layout.field(&["common_pid"]);
        let complete = identified && fields.ring.is_some() && self.number.is_some();
        if complete {
            self.tracepoints.push((layout.id, tracepoint, fields));
        }
        complete
    }

    /// Whether completions have their flags, if completions are learned at all.
    pub fn has_flags(&self) -> bool {
        let mut completions = self
            .tracepoints
            .iter()
            .filter(|(_, tracepoint, _)| *tracepoint == Tracepoint::Complete);
        completions.all(|(.., fields)| fields.own[1].is_some())
    }

    /// Decodes an event; `None` if its tracepoint was not learned or the bytes end too early.
    pub fn decode(&self, time: u64, bytes: &[u8]) -> Option<KernelEvent> {
        let number = self.number?.read(bytes)?;
        let known = self.tracepoints.iter().find(|(id, ..)| u64::from(*id) == number);
        let (_, tracepoint, fields) = known?;
        let read = |field: Option<Field>| field.and_then(|field| field.read(bytes));
        Some(KernelEvent {
            time,
            thread: read(self.thread).unwrap_or(0) as i32,
            ring: read(fields.ring)?,
            request: read(fields.request).unwrap_or(0),
            user_data: read(fields.user_data).unwrap_or(0),
            opcode: read(fields.opcode).map(|code| code as u8),
            kind: KernelEventKind::of(
                *tracepoint,
                fields.own.map(|field| read(field).unwrap_or(0)),
            ),
        })
    }
}

/// The names of `IORING_OP_*` in lower case, by number (`enum io_uring_op`), up to Linux 7.2.
const OPERATIONS: &str = "nop readv writev fsync read_fixed write_fixed poll_add poll_remove sync_file_range \
     sendmsg recvmsg timeout timeout_remove accept async_cancel link_timeout connect \
     fallocate openat close files_update statx read write fadvise madvise send recv openat2 \
     epoll_ctl splice provide_buffers remove_buffers tee shutdown renameat unlinkat mkdirat \
     symlinkat linkat msg_ring fsetxattr setxattr fgetxattr getxattr socket uring_cmd send_zc \
     sendmsg_zc read_multishot waitid futex_wait futex_wake futex_waitv fixed_fd_install \
     ftruncate bind listen recv_zc epoll_wait readv_fixed writev_fixed pipe nop128 \
     uring_cmd128";

/// The name of an operation; `op 70` if the number has none here.
pub fn operation(opcode: u8) -> String {
    let name = OPERATIONS.split(' ').nth(opcode.into());
    name.map_or_else(|| format!("op {opcode}"), str::to_owned)
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

    fn bytes(id: u16, rest: &[u8]) -> Vec<u8> {
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
        let mut decoder = TracepointDecoder::default();
        assert!(
            decoder.learn(Tracepoint::SubmitReq, &new)
                && decoder.learn(Tracepoint::SubmitReq, &old)
        );
        let mut rest = [0u8; 40];
        rest[..8].copy_from_slice(&3u64.to_ne_bytes());
        rest[8..16].copy_from_slice(&42u64.to_ne_bytes());
        rest[16] = 27;
        let event = decoder.decode(1, &bytes(5, &rest)).expect("an event");
        assert_eq!((event.thread, event.ring, event.request), (77, 9, 3));
        assert_eq!((event.user_data, event.opcode), (42, Some(27)));
        rest[0] = 13;
        rest[17] = 1;
        let event = decoder.decode(1, &bytes(6, &rest)).expect("an event");
        assert_eq!((event.request, event.user_data, event.opcode), (0, 42, Some(13)));
        assert_eq!(event.kind, KernelEventKind::Submitted { by_kernel: true });
    }

    #[test]
    fn a_completion_without_flags_is_one_and_one_without_user_data_is_not() {
        // 5.6: a long for the result, and no flags.
        let old = format(7, &[("u64 user_data", 16, 8, 0), ("long res", 24, 8, 1)]);
        let mut decoder = TracepointDecoder::default();
        assert!(decoder.learn(Tracepoint::Complete, &old));
        let rest = [&1u64.to_ne_bytes()[..], &(-11i64).to_ne_bytes()].concat();
        let event = decoder.decode(0, &bytes(7, &rest)).expect("an event");
        assert_eq!(event.kind, KernelEventKind::Completed { res: -11, flags: 0 });
        // 5.10's fail_link had a request and nothing else.
        assert!(!decoder.learn(Tracepoint::FailLink, &format(8, &[("void * req", 16, 8, 0)])));
        assert!(!decoder.learn(Tracepoint::Complete, &format(9, &[("int res", 16, 4, 1)])));
    }

    #[test]
    fn an_unknown_or_truncated_event_is_none() {
        let mut decoder = TracepointDecoder::default();
        assert_eq!(decoder.decode(0, &[0; 64]), None);
        assert!(decoder.learn(Tracepoint::LocalWorkRun, &format(7, &[("int count", 16, 4, 1)])));
        assert_eq!(decoder.decode(0, &bytes(8, &[0; 40])), None);
        for len in 0..16 {
            assert_eq!(decoder.decode(0, &bytes(7, &[])[..len]), None);
        }
        let event = decoder.decode(0, &bytes(7, &[])).expect("a truncated count is zero");
        assert_eq!(event.kind, KernelEventKind::WorkRun { count: 0 });
    }

    #[test]
    fn operations_have_the_names_of_their_numbers() {
        for (code, name) in [
            (6, "poll_add"),
            (13, "accept"),
            (14, "async_cancel"),
            (19, "close"),
            (27, "recv"),
            (31, "provide_buffers"),
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
