//! The system calls of this process and of all that it makes, timed from within, without
//! privileges.
//!
//! A seccomp filter answers chosen calls with SIGSYS (seccomp(2), `SECCOMP_RET_TRAP`), and the
//! handler makes the very call in place of the program: it reads the clock, calls, reads the clock,
//! and leaves a note in shared memory. The filter lets the handler's own instruction through, which
//! it knows by its address. So every model is seen alike, whatever library makes its calls, a
//! call's time is that of the call alone, and a program that is not probed pays nothing. What a
//! probe costs falls *between* calls: the delivery of a signal and the return from it. Threads and
//! children inherit all of it; it cannot be taken off again (kernel-notes §66).
#![allow(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::SharedNumbers;

/// A system call as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The thread's number, as gettid(2) has it.
    pub thread: u64,
    /// The number of the call: `libc::SYS_*`.
    pub number: i64,
    /// Its first four arguments, in whole registers.
    pub args: [u64; 4],
    /// Just before it, in nanoseconds of the monotonic clock.
    pub begin: u64,
    /// Just after it; `None` while it lasts.
    pub end: Option<u64>,
    /// What it answered, an error as `-errno`; meaningless while it lasts.
    pub result: i64,
}

/// Notes of calls, seen by the process that made it and those that it forks.
#[derive(Debug)]
pub struct Probe {
    notes: Arc<SharedNumbers>,
}

/// Calls remembered; of more, the last. A power of two.
const NOTES: usize = 1 << 15;
/// Numbers in a note: its ticket, thread, call, begin, end, result, four arguments.
const NOTE: usize = 10;

impl Probe {
    /// One that has noted nothing.
    ///
    /// # Errors
    /// No memory is left.
    pub fn new() -> io::Result<Probe> {
        SharedNumbers::map(1 + NOTES * NOTE).map(|notes| Probe { notes: Arc::new(notes) })
    }

    /// Notes these calls, from now on and for good: of this thread, of threads and processes that
    /// it makes. At most 64 numbers. The process cannot gain privileges any more, and must not
    /// block SIGSYS when it calls.
    ///
    /// # Errors
    /// The processor is none of those whose registers are known here (x86_64), or the kernel
    /// permits no filter.
    pub fn begin(&self, calls: &[i64]) -> io::Result<()> {
        machine::install(calls, Box::leak(Box::new(Probe { notes: Arc::clone(&self.notes) })))
    }

    /// What was noted and is still remembered, in the order in which the calls began. A call that
    /// begins or ends meanwhile may be missing.
    pub fn calls(&self) -> Vec<Call> {
        let came = self.notes[0].load(Ordering::Acquire);
        let first = came.saturating_sub(NOTES as u64);
        (first..came).filter_map(|ticket| self.read(ticket)).collect()
    }

    fn read(&self, ticket: u64) -> Option<Call> {
        let note = self.note(ticket);
        let number = |at: usize| note[at].load(Ordering::Acquire);
        if number(0) != ticket + 1 {
            return None;
        }
        let end = number(4);
        let call = Call {
            thread: number(1),
            number: number(2) as i64,
            begin: number(3),
            end: (end != 0).then_some(end),
            result: number(5) as i64,
            args: [6, 7, 8, 9].map(number),
        };
        (number(0) == ticket + 1).then_some(call)
    }

    fn note(&self, ticket: u64) -> &[AtomicU64] {
        let at = 1 + (ticket as usize % NOTES) * NOTE;
        &self.notes[at..at + NOTE]
    }

    /// Makes a call and notes it. Async-signal-safe: atomics, the clock, and the call itself.
    #[cfg(target_arch = "x86_64")]
    fn make(&self, call: &machine::Registers) -> i64 {
        let thread = machine::thread();
        let ticket = self.notes[0].fetch_add(1, Ordering::AcqRel);
        let note = self.note(ticket);
        let set = |at: usize, number: u64| note[at].store(number, Ordering::Release);
        set(0, 0); // A reader now sees that it is being written.
        set(1, thread);
        set(2, call.0[0]);
        set(4, 0);
        (0..4).for_each(|arg| set(6 + arg, call.0[1 + arg]));
        set(3, super::now().0);
        set(0, ticket + 1);
        let result = machine::call(call);
        let end = super::now().0;
        // Unless it lasted so long that the note is another's.
        if note[0].load(Ordering::Acquire) == ticket + 1 {
            set(5, result as u64);
            set(4, end);
        }
        result
    }
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use std::io;
    use std::mem::offset_of;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicPtr, Ordering};

    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    use libc::{REG_R8, REG_R9, REG_R10, REG_RAX, REG_RDI, REG_RDX, REG_RSI};
    use libc::{seccomp_data, sock_filter, sock_fprog};

    use super::super::count_call;
    use super::super::signal::dispose;
    use super::Probe;

    /// `AUDIT_ARCH_X86_64`: the layout of numbers and registers that is known here.
    const ARCHITECTURE: u32 = 0xc000_003e;

    /// Where calls are noted; null before there is a probe.
    static PROBE: AtomicPtr<Probe> = AtomicPtr::new(null_mut());

    /// A call's number and its six arguments.
    #[repr(C)]
    pub(super) struct Registers(pub(super) [u64; 7]);

    std::arch::global_asm!(
        ".pushsection .text.proactor_probe,\"ax\",@progbits",
        ".hidden proactor_probe_call",
        ".globl proactor_probe_call",
        "proactor_probe_call:",
        "mov rax, [rdi]",
        "mov rsi, [rdi + 16]",
        "mov rdx, [rdi + 24]",
        "mov r10, [rdi + 32]",
        "mov r8, [rdi + 40]",
        "mov r9, [rdi + 48]",
        "mov rdi, [rdi + 8]",
        "syscall",
        ".hidden proactor_probe_after",
        ".globl proactor_probe_after",
        "proactor_probe_after:",
        "ret",
        ".popsection",
    );

    // SAFETY: both are defined just above. The first takes the address of seven numbers and keeps
    // to the C calling convention: of registers it changes only those that a callee may.
    unsafe extern "C" {
        fn proactor_probe_call(call: *const Registers) -> i64;
        static proactor_probe_after: u8;
    }

    /// Makes a call that the filter lets through.
    pub(super) fn call(call: &Registers) -> i64 {
        // SAFETY: `call` is readable. The kernel is asked exactly what the program asked it, whose
        // arguments are the program's to answer for.
        unsafe { proactor_probe_call(call) }
    }

    /// Returns this thread's number.
    pub(super) fn thread() -> u64 {
        // SAFETY: takes nothing and never fails; it is none of the calls that are filtered.
        unsafe { libc::syscall(libc::SYS_gettid) as u64 }
    }

    pub(super) fn install(calls: &[i64], probe: &'static mut Probe) -> io::Result<()> {
        PROBE.store(probe, Ordering::Release);
        // Not deferred: a signal that interrupts the handler's call may have a handler that calls.
        let flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        // The handler is async-signal-safe.
        dispose(libc::SIGSYS, on_call as extern "C" fn(_, _, _) as usize, flags)?;
        let mut filter = filter(calls);
        let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // Takes numbers alone. Without it, only the privileged may filter.
        syscall!(prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // `program` and the filter that it points to are read during the call.
        let mode = libc::SECCOMP_MODE_FILTER;
        syscall!(prctl(libc::PR_SET_SECCOMP, mode, &raw const program)).map(drop)
    }

    /// Traps `calls`, unless they are made at our own instruction.
    fn filter(calls: &[i64]) -> Vec<sock_filter> {
        assert!(calls.len() <= 64, "a jump goes no further");
        let op = |code: u32, k: u32, jt: usize, jf: usize| sock_filter {
            code: code as u16,
            jt: jt as u8,
            jf: jf as u8,
            k,
        };
        let load = |offset: usize| op(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0);
        let equal = |k, jt, jf| op(BPF_JMP | BPF_JEQ | BPF_K, k, jt, jf);
        let answer = |k| op(BPF_RET | BPF_K, k, 0, 0);
        let after = (&raw const proactor_probe_after).addr() as u64;
        let (instruction, count) = (offset_of!(seccomp_data, instruction_pointer), calls.len());
        // Of the last load and the jumps behind it: `count` to the answer that allows.
        let mut filter = vec![
            load(offset_of!(seccomp_data, arch)),
            equal(ARCHITECTURE, 0, 5 + count),
            load(instruction), // The lower half: x86_64 is little-endian.
            equal(after as u32, 0, 2),
            load(instruction + 4),
            equal((after >> 32) as u32, 1 + count, 0),
            load(offset_of!(seccomp_data, nr)),
        ];
        filter
            .extend(calls.iter().enumerate().map(|(at, &call)| equal(call as u32, count - at, 0)));
        filter.push(answer(libc::SECCOMP_RET_ALLOW));
        filter.push(answer(libc::SECCOMP_RET_TRAP));
        filter
    }

    /// Makes the call that the filter took away, and has the program go on with its answer.
    extern "C" fn on_call(
        _: libc::c_int,
        _: *const libc::siginfo_t,
        context: *mut libc::ucontext_t,
    ) {
        // SAFETY: the kernel passes the context of what it interrupted, ours to change until we
        // return: seccomp(2) has put the registers back to what they were at the call.
        let registers = unsafe { &mut (*context).uc_mcontext.gregs };
        let names = [REG_RAX, REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9];
        let call = Registers(names.map(|name| registers[name as usize] as u64));
        // SAFETY: the probe was set before the filter, and lives as long as the process.
        let probe = unsafe { PROBE.load(Ordering::Acquire).as_ref() };
        let answer = match probe {
            Some(probe) => probe.make(&call),
            None => self::call(&call),
        };
        registers[REG_RAX as usize] = answer;
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod machine {
    use std::io;

    use super::Probe;

    pub(super) fn install(_: &[i64], _: &'static mut Probe) -> io::Result<()> {
        let text = "calls are caught on x86_64 only: other registers are not known here; \
                    `serve --trace` records on any processor";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }
}
