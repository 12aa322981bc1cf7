//! Text for a terminal or pipe that may be read slowly, or not at all, without waiting for it.
//!
//! A terminal may be stopped (Ctrl-S) and a pipe be full for as long as their readers like, and to
//! make them non-blocking would do so to the shell as well: they share the open file. So a thread
//! of its own does the writing, and alone sleeps in it. What it has not written is bounded.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// With more text than this waiting to be written, in bytes, what is printed is lost. One answer
/// may be longer, as a list of thousands is.
const MOST: usize = 256 << 10;
/// How long the end waits for what is still to be written.
const AWAIT_END: Duration = Duration::from_millis(500);

/// A writer that never waits.
pub(super) struct Output {
    shared: Arc<SharedOutput>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct SharedOutput {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    /// The number of texts that did not fit.
    lost: u64,
    /// True once nothing more will be printed.
    closed: bool,
    /// True once the thread writes no more.
    ended: bool,
}

impl Output {
    /// Writes to `target`, in a thread.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn new(target: impl Write + Send + 'static) -> std::io::Result<Output> {
        let shared = Arc::new(SharedOutput::default());
        let its = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("console".into()).spawn(move || write(&its, target))?;
        Ok(Output { shared, thread: Some(thread) })
    }

    /// Writes `text`, unless it does not fit: then a note is written when there is space.
    pub(super) fn print(&self, text: &str) {
        let mut state = self.shared.lock();
        if state.ended {
            return;
        }
        if state.text.len() > MOST {
            state.lost += 1;
        } else {
            state.text.push_str(text);
        }
        self.shared.changed.notify_all();
    }

    /// Returns true if the output cannot be written any more.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().ended
    }
}

impl SharedOutput {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
    }
}

fn write(shared: &SharedOutput, mut target: impl Write) {
    let mut text = String::new();
    loop {
        let mut state = shared.lock();
        while state.text.is_empty() && state.lost == 0 && !state.closed {
            state = shared.changed.wait(state).expect("no thread panics while it holds the lock");
        }
        let over = state.closed && state.text.is_empty() && state.lost == 0;
        std::mem::swap(&mut state.text, &mut text);
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        if lost > 0 {
            text.push_str(&format!("({lost} messages were not shown: they came too fast)\n"));
        }
        let written = target.write_all(text.as_bytes()).and_then(|()| target.flush());
        text.clear();
        if over || written.is_err() {
            shared.lock().ended = true;
            shared.changed.notify_all();
            return;
        }
    }
}

impl Drop for Output {
    /// Waits a moment for what is still to be written. A thread that sleeps in a write after that
    /// is left to it: it holds nothing but its text.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(state, AWAIT_END, |state| !state.ended);
        let ended = waited.expect("no thread panics while it holds the lock").0.ended;
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            // It panics nowhere; and if it did, the server has nothing to do with it.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("broken", &self.is_broken()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Seek};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_printed_is_written_before_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        let output = Output::new(file.try_clone().unwrap()).unwrap();
        (0..1000).for_each(|n| output.print(&format!("{n}\n")));
        drop(output);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, (0..1000).map(|n| format!("{n}\n")).collect::<String>());
    }

    #[test]
    fn an_unread_output_costs_bounded_memory_and_notes_what_is_missing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let output = Output::new(ours).unwrap();
        let line = "x".repeat(1023) + "\n";
        (0..2000).for_each(|_| output.print(&line)); // 2 MB: more than the socket and we hold
        assert!(output.shared.lock().text.len() <= MOST + line.len());
        let reader = thread::spawn(move || {
            let mut text = String::new();
            theirs.read_to_string(&mut text).map(|_| text)
        });
        drop(output);
        let text = reader.join().unwrap().unwrap();
        let (notes, lines): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with('('));
        let lost = |note: &str| {
            assert!(note.ends_with("messages were not shown: they came too fast)"), "{note}");
            note[1..].split(' ').next().unwrap().parse::<usize>().unwrap()
        };
        let lost: usize = notes.into_iter().map(lost).sum();
        assert!(lost > 0 && lost + lines.len() == 2000, "{lost} + {}", lines.len());
    }

    #[test]
    fn a_closed_output_ends_the_input_and_nothing_else() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::new(Broken).unwrap();
        output.print("x");
        let state = output.shared.lock();
        drop(output.shared.changed.wait_while(state, |state| !state.ended).unwrap());
        assert!(output.is_broken());
        output.print("y");
        assert!(output.shared.lock().text.is_empty());
    }
}
