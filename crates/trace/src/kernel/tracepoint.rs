//! The kernel's io_uring tracepoints and their events, typed, for every kernel version.

use super::layout::{Field, Layout};
use proactor::ring::Cqe;
use proactor_record::{Errno, format, numbered};

numbered! {
    /// An io_uring tracepoint, with the kernel's name for it.
    Tracepoint {
        /// A ring was created.
        Create = 0, "io_uring_create";
        /// A submission was read from the queue and is well-formed.
        SubmitReq = 1, "io_uring_submit_req";
        /// A submission was rejected before it started (since 5.16). It completes with an error as
        /// well.
        ReqFailed = 2, "io_uring_req_failed";
        /// A completion was posted to the queue.
        Complete = 3, "io_uring_complete";
        /// A completion was stored outside the queue because the queue was full (since 5.19). No
        /// second event follows when it moves into the queue.
        CqeOverflow = 4, "io_uring_cqe_overflow";
        /// What a request waited for has arrived. Its work is queued to its task.
        TaskAdd = 5, "io_uring_task_add";
        /// A request was handed to a worker thread (io-wq) because it might block.
        QueueAsyncWork = 6, "io_uring_queue_async_work";
        /// A request waits by polling.
        PollArm = 7, "io_uring_poll_arm";
        /// Work that was deferred to an enter was run (since 6.1).
        LocalWorkRun = 8, "io_uring_local_work_run";
        /// A task sleeps until there are completions.
        CqringWait = 9, "io_uring_cqring_wait";
        /// A linked request failed, and the rest of its chain is cancelled.
        FailLink = 10, "io_uring_fail_link";
        /// A request was given the file of a descriptor.
        FileGet = 11, "io_uring_file_get";
        /// A thread calls io_uring_enter(2).
        Enter = 12, "sys_enter_io_uring_enter";
        /// A thread or a process was created, by the thread of the event.
        NewTask = 13, "task_newtask";
        /// A thread was given another name, as by execve(2).
        Rename = 14, "task_rename";
        /// A signal was sent, even if it is ignored.
        Signal = 15, "signal_generate";
    }
}

/// By the tracepoint's name: its word in lines and in JSON, the fields that only it has, what its
/// events say, and what is unknown on a kernel without it.
const FACTS: &str = include_str!("tracepoints.txt");

impl Tracepoint {
    fn fact(self, column: usize) -> &'static str {
        let mut rows = FACTS.lines().map(|row| row.split('|').map(str::trim));
        let own = rows.find(|row| row.clone().next() == Some(self.name()));
        own.and_then(|mut row| row.nth(column)).expect("a row for each tracepoint")
    }

    /// The tracepoint's name, and its name before 6.3.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let before = (self == Tracepoint::SubmitReq).then_some("io_uring_submit_sqe");
        [Some(self.name()), before].into_iter().flatten()
    }

    /// The word for it in lines and in JSON.
    pub(crate) fn word(self) -> &'static str {
        self.fact(1)
    }

    /// What its events say, in a few words.
    pub(super) fn words(self) -> &'static str {
        self.fact(3)
    }

    /// What is unknown without it.
    pub(super) fn unknown(self) -> &'static str {
        self.fact(4)
    }

    /// Those that a watch of rings needs. The descriptors of requests are not among them: that is
    /// one more event for each.
    pub const OF_RINGS: [Tracepoint; 14] = [
        Tracepoint::SubmitReq,
        Tracepoint::Complete,
        Tracepoint::TaskAdd,
        Tracepoint::PollArm,
        Tracepoint::CqringWait,
        Tracepoint::LocalWorkRun,
        Tracepoint::Enter,
        Tracepoint::QueueAsyncWork,
        Tracepoint::CqeOverflow,
        Tracepoint::ReqFailed,
        Tracepoint::FailLink,
        Tracepoint::Create,
        Tracepoint::NewTask,
        Tracepoint::Rename,
    ];

    /// The group of the tracepoint, which is a folder in `events`.
    pub(super) fn group(self) -> &'static str {
        match self {
            Tracepoint::Enter => "syscalls",
            Tracepoint::NewTask | Tracepoint::Rename => "task",
            Tracepoint::Signal => "signal",
            _ => "io_uring",
        }
    }

    /// Whether its events name a ring.
    pub(crate) fn is_of_ring(self) -> bool {
        self.group() == "io_uring"
    }

    /// Whether its events are about one request.
    pub(crate) fn is_of_request(self) -> bool {
        use Tracepoint::{CqringWait, Create, LocalWorkRun};
        self.is_of_ring() && !matches!(self, Create | CqringWait | LocalWorkRun)
    }
}

/// One event of a tracepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelEvent {
    /// The time: of an [`Instance`](super::Instance) in ticks of its clock, of a
    /// [`Sidecar`](super::Sidecar) in nanoseconds since recording began.
    pub time: u64,
    /// The thread that ran. It does not always belong to the ring's process.
    pub thread: i32,
    /// The ring's address in the kernel: it identifies the ring and has no other use. Zero if the
    /// tracepoint does not have it.
    pub ring: u64,
    /// The request's address in the kernel; zero if the tracepoint does not have it.
    pub request: u64,
    /// The submission's user data; zero if the tracepoint does not have it
    /// ([`Tracepoint::QueueAsyncWork`] on 5.10).
    pub user_data: u64,
    /// `IORING_OP_*`, if the tracepoint has it.
    pub opcode: Option<u8>,
    /// The tracepoint of the event.
    pub tracepoint: Tracepoint,
    /// The values of the fields that only this tracepoint has, in the order of its table; zero
    /// for a field that the kernel does not have. A name of 16 bytes has two of them.
    pub own: [u64; 4],
}

impl KernelEvent {
    /// The word for it in lines and in JSON.
    pub fn name(&self) -> &'static str {
        self.tracepoint.word()
    }

    /// The result and the flags (`IORING_CQE_F_*`; zero on kernels that do not trace them) of a
    /// completion, in the queue or outside it.
    pub fn completion(&self) -> Option<(i32, u32)> {
        let is_one = matches!(self.tracepoint, Tracepoint::Complete | Tracepoint::CqeOverflow);
        is_one.then_some((self.own[0] as i32, self.own[1] as u32))
    }

    /// Whether it is a completion and more completions of the same request follow.
    pub fn more(&self) -> bool {
        self.completion().is_some_and(|(_, flags)| flags & Cqe::MORE != 0)
    }

    /// Whether a completion is a message that another ring posted: it has no request, and it does
    /// not belong to a multishot request. Holds for kernels that name the requests of completions.
    pub(crate) fn is_message(&self) -> bool {
        self.tracepoint == Tracepoint::Complete && self.request == 0 && !self.more()
    }

    /// The thread that was created or renamed, and its name.
    pub(crate) fn task(&self) -> Option<(i32, String)> {
        let name = match self.tracepoint {
            Tracepoint::NewTask => [self.own[2], self.own[3]],
            Tracepoint::Rename => [self.own[1], self.own[2]],
            _ => return None,
        };
        let bytes: Vec<u8> = name.into_iter().flat_map(u64::to_ne_bytes).collect();
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Some((self.own[0] as i32, String::from_utf8_lossy(name).into_owned()))
    }

    /// The result of a completion or of a rejected submission.
    pub fn result(&self) -> Option<Result<u32, Errno>> {
        let is_rejected = self.tracepoint == Tracepoint::ReqFailed;
        let res = if is_rejected { self.own[0] as i32 } else { self.completion()?.0 };
        Some(u32::try_from(res).map_err(|_| Errno(res.wrapping_neg())))
    }
}

/// Makes [`KernelEvent`]s of a kernel's bytes, after it has learned the kernel's formats.
#[derive(Debug, Clone, Default)]
pub struct TracepointDecoder {
    tracepoints: Vec<(Tracepoint, FieldSet)>,
    /// By the number of the event, the index in `tracepoints`.
    indices: Vec<Option<u8>>,
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
    own: [Option<Field>; 4],
}

/// A field, or the halves of one with 16 bytes.
fn parts(field: Option<Field>) -> Vec<Option<Field>> {
    match field {
        Some(Field { offset, size: 16, .. }) => {
            [offset, offset + 8].map(|offset| Some(Field { offset, size: 8, signed: false })).into()
        }
        _ => vec![field],
    }
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
        let names = tracepoint.fact(2).split_whitespace();
        let own = names.flat_map(|name| parts(layout.field(&[name])));
        fields.own.iter_mut().zip(own).for_each(|(place, field)| *place = field);
        let has_user_data = fields.user_data.is_some();
        let is_identified = match tracepoint {
            Tracepoint::Complete | Tracepoint::CqeOverflow => {
                has_user_data && fields.own[0].is_some()
            }
            // 5.10 has the request only, which is known from its submission.
            Tracepoint::QueueAsyncWork => has_user_data || fields.request.is_some(),
            Tracepoint::NewTask | Tracepoint::Rename | Tracepoint::Signal => {
                fields.own[0].is_some()
            }
            _ => has_user_data || !tracepoint.is_of_request(),
        };
        self.number = layout.field(&["common_type"]);
        self.thread = layout.field(&["common_pid"]);
        let names_ring = fields.ring.is_some() || !tracepoint.is_of_ring();
        let is_complete = is_identified && names_ring && self.number.is_some();
        if is_complete {
            let number = usize::from(layout.id);
            self.indices.resize(self.indices.len().max(number + 1), None);
            self.indices[number] = u8::try_from(self.tracepoints.len()).ok();
            self.tracepoints.push((tracepoint, fields));
        }
        is_complete
    }

    /// Whether completions have their flags, if completions are learned at all.
    pub fn has_flags(&self) -> bool {
        self.complete().is_none_or(|fields| fields.own[1].is_some())
    }

    /// Whether completions name their requests, if completions are learned at all.
    pub fn names_requests(&self) -> bool {
        self.complete().is_none_or(|fields| fields.request.is_some())
    }

    /// The fields of completions.
    fn complete(&self) -> Option<&FieldSet> {
        let mut learned = self.tracepoints.iter();
        learned.find(|(point, _)| *point == Tracepoint::Complete).map(|(_, fields)| fields)
    }

    /// Decodes an event; `None` if its tracepoint was not learned or the bytes end too early.
    pub fn decode(&self, time: u64, bytes: &[u8]) -> Option<KernelEvent> {
        let number = self.number?.read(bytes)?;
        let index = *self.indices.get(usize::try_from(number).ok()?)?;
        let (tracepoint, fields) = self.tracepoints.get(usize::from(index?))?;
        let read = |field: Option<Field>| field.and_then(|field| field.read(bytes));
        Some(KernelEvent {
            time,
            thread: read(self.thread).unwrap_or(0) as i32,
            ring: if tracepoint.is_of_ring() { read(fields.ring)? } else { 0 },
            request: read(fields.request).unwrap_or(0),
            user_data: read(fields.user_data).unwrap_or(0),
            opcode: read(fields.opcode).map(|code| code as u8),
            tracepoint: *tracepoint,
            own: fields.own.map(|field| read(field).unwrap_or(0)),
        })
    }
}

/// Parses the name of an operation or of a kind of event: `recv`, `post`.
///
/// # Errors
/// There is none with this name; the message says what is expected.
pub fn parse_event_name(text: &str) -> Result<String, String> {
    let mut kinds = Tracepoint::ALL.iter().filter(|point| point.is_of_ring());
    let is_kind = kinds.any(|point| point.fact(1) == text);
    let is_operation = (0..=u8::MAX).any(|opcode| format::operation(opcode) == Some(text));
    match is_kind || is_operation || text.starts_with("op ") {
        true => Ok(text.to_owned()),
        false => {
            Err("write an operation as recv, send or nop, or a kind of event as submit, post, \
                      reject, arrive or punt"
                .to_owned())
        }
    }
}

/// The name of an operation; `op 70` if the number has none here.
pub fn operation(opcode: u8) -> String {
    format::operation(opcode).map_or_else(|| format!("op {opcode}"), str::to_owned)
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
        assert_eq!((event.tracepoint, event.own[0]), (Tracepoint::SubmitReq, 1));
    }

    #[test]
    fn a_completion_without_flags_is_one_and_one_without_user_data_is_not() {
        // 5.6: a long for the result, and no flags.
        let old = format(7, &[("u64 user_data", 16, 8, 0), ("long res", 24, 8, 1)]);
        let mut decoder = TracepointDecoder::default();
        assert!(decoder.learn(Tracepoint::Complete, &old));
        let rest = [&1u64.to_ne_bytes()[..], &(-11i64).to_ne_bytes()].concat();
        let event = decoder.decode(0, &bytes(7, &rest)).expect("an event");
        assert_eq!(event.completion(), Some((-11, 0)));
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
        assert_eq!((event.tracepoint, event.own[0]), (Tracepoint::LocalWorkRun, 0));
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
