//! Text for a terminal or pipe that may be read slowly, or not at all, without waiting for it.
//!
//! A terminal may be stopped (Ctrl-S) and a pipe be full for as long as their readers like, and to
//! make them non-blocking would do so to the shell as well: they share the open file. So a thread
//! of its own does the writing, and alone sleeps in it. What it has not written is bounded.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// With more text than this waiting to be written, in bytes, what is printed is lost. One answer
/// may be longer, as a list of thousands is.
const MOST: usize = 256 << 10;
/// How long the end waits for what is still to be written.
const AWAIT_END: Duration = Duration::from_millis(500);

/// A writer that never waits.
#[derive(Debug)]
pub(super) struct Output {
    /// What the thread is to write; `None` once nothing more will be printed.
    texts: Option<Sender<String>>,
    waiting: Arc<Mutex<Waiting>>,
    /// Disconnected once the thread writes no more.
    ended: Receiver<()>,
}

/// What is printed and not yet taken by the thread.
#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    /// The number of texts that did not fit. They wait with others, so the thread finds them.
    lost: u64,
}

impl Output {
    /// Writes to `target`, in a thread.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn new(mut target: impl Write + Send + 'static) -> io::Result<Output> {
        let (texts, printed) = mpsc::channel::<String>();
        let (writes, ended) = mpsc::channel();
        let waiting = Arc::default();
        let output = Output { texts: Some(texts), waiting: Arc::clone(&waiting), ended };
        let write = move || {
            while let Ok(mut text) = printed.recv() {
                text.extend(printed.try_iter());
                let lost = lock(&waiting).take(text.len());
                if lost > 0 {
                    let note = format!("({lost} messages were not shown: they came too fast)\n");
                    text.push_str(&note);
                }
                if target.write_all(text.as_bytes()).and_then(|()| target.flush()).is_err() {
                    break;
                }
            }
            drop(printed); // First: nothing is printed any more once the end is known.
            drop(writes);
        };
        thread::Builder::new().name("console".into()).spawn(write)?;
        Ok(output)
    }

    /// Writes `text`, unless it does not fit: then a note is written when there is space.
    pub(super) fn print(&self, text: &str) {
        let mut waiting = lock(&self.waiting);
        if waiting.bytes > MOST {
            waiting.lost += 1;
        } else if let Some(texts) = &self.texts
            && texts.send(text.to_owned()).is_ok()
        {
            waiting.bytes += text.len();
        }
    }

    /// Returns true if the output cannot be written any more.
    pub(super) fn is_broken(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Disconnected)
    }
}

impl Waiting {
    /// Takes so many bytes, and the number of texts that did not fit.
    fn take(&mut self, bytes: usize) -> u64 {
        self.bytes -= bytes;
        std::mem::take(&mut self.lost)
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().expect("no thread panics while it holds the lock")
}

impl Drop for Output {
    /// Waits a moment for what is still to be written. A thread that sleeps in a write after that
    /// is left to it: it holds nothing but its text.
    fn drop(&mut self) {
        self.texts = None;
        // It returns when the thread ends, which sends nothing, or when the time is over.
        let _ = self.ended.recv_timeout(AWAIT_END);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
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
        assert!(lock(&output.waiting).bytes <= MOST + line.len());
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
        assert!(output.ended.recv().is_err(), "the thread ends, and sends nothing");
        assert!(output.is_broken());
        output.print("y");
        assert_eq!(lock(&output.waiting).bytes, 0);
    }
}
