//! Lines on their way out: gathered in memory, and written together by a thread of their own, so that
//! what writes one waits neither for the system nor for a reader.
//!
//! A line goes out within [`MOMENT`], whole and in the order it came. A process that is killed loses
//! what it wrote in its last moment; one that ends in order loses nothing.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Gathers lines. Each call of [`Write::write`] is one line.
#[derive(Clone, Debug)]
pub(super) struct Batch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Lines wait, many of them, or somebody waits for them to be written.
    waiting: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// Somebody waits for them.
    hurry: bool,
    /// The thread is writing what it took.
    busy: bool,
    /// Lines that found no room.
    lost: u64,
}

// === impl Batch ===

impl Batch {
    /// Begins to write to `out`.
    pub(super) fn begin(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            waiting: Condvar::new(),
            written: Condvar::new(),
        });
        let writing = shared.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writing.run(out))?;
        Ok(Self(shared))
    }

    /// Waits until all lines up to here are written, at most [`PATIENCE`].
    pub(super) fn flush(&self) {
        let mut state = self.0.state();
        state.hurry = true;
        self.0.waiting.notify_one();
        let unwritten = |state: &mut State| state.busy || !state.lines.is_empty();
        let waited = self
            .0
            .written
            .wait_timeout_while(state, PATIENCE, unwritten);
        drop(waited);
    }

    fn add(&self, line: &[u8]) {
        let mut state = self.0.state();
        if state.lines.len() + line.len() > MOST {
            // Standard error is read slowly, or not at all. A log that is worth having is worth some
            // waiting, but a reader that has stopped must not stop the gateway.
            let full = |state: &mut State| state.lines.len() + line.len() > MOST && state.lost == 0;
            let waited = self.0.written.wait_timeout_while(state, PATIENCE, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.lines.len() + line.len() > MOST {
                state.lost += 1;
                return;
            }
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        let now = state.lines.len();
        drop(state);
        if before == 0 || (before < ENOUGH && now >= ENOUGH) {
            self.0.waiting.notify_one();
        }
    }
}

impl Write for Batch {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Batch {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let lost = {
                let mut state = self.state();
                state.busy = false;
                self.written.notify_all();
                let none = |state: &mut State| state.lines.is_empty();
                let waited = self.waiting.wait_while(state, none);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                // Others come soon, and go with it.
                let few = |state: &mut State| !state.hurry && state.lines.len() < ENOUGH;
                let waited = self.waiting.wait_timeout_while(state, MOMENT, few);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                std::mem::swap(&mut state.lines, &mut lines);
                state.busy = true;
                state.hurry = false;
                std::mem::take(&mut state.lost)
            };
            // There is nobody to tell that nobody can be told.
            let _ = out.write_all(&lines);
            if lost > 0 {
                let told = format!("pierhead: {lost} log lines were lost: nobody reads them\n");
                let _ = out.write_all(told.as_bytes());
            }
            let _ = out.flush();
            lines.clear();
            lines.shrink_to(ENOUGH);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest that a line waits for others.
const MOMENT: Duration = Duration::from_millis(20);
/// Bytes that are worth writing at once.
const ENOUGH: usize = 64 << 10;
/// Bytes that may wait.
const MOST: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands every write to a test, and waits until it is taken.
    struct Handing(mpsc::SyncSender<Vec<u8>>);

    impl Write for Handing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_many_threads_come_whole_and_all() {
        let (sender, written) = mpsc::sync_channel(0);
        let batch = Batch::begin(Handing(sender)).unwrap();
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            while all.iter().filter(|byte| **byte == b'\n').count() < 4000 {
                all.extend(written.recv().unwrap());
            }
            String::from_utf8(all).unwrap()
        });
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let mut batch = batch.clone();
                scope.spawn(move || {
                    for n in 0..1000 {
                        let line = format!("{name} {n} {}\n", name.repeat(n % 90));
                        batch.write_all(line.as_bytes()).unwrap();
                    }
                });
            }
        });
        let all = reading.join().unwrap();
        for name in ["a", "b", "c", "d"] {
            let expected = (0..1000).map(|n| format!("{name} {n} {}", name.repeat(n % 90)));
            assert!(
                all.lines()
                    .filter(|line| line.starts_with(name))
                    .eq(expected)
            );
        }
    }

    #[test]
    fn a_flush_waits_for_what_was_said_before_it() {
        let (sender, written) = mpsc::sync_channel(9);
        let mut batch = Batch::begin(Handing(sender)).unwrap();
        batch.write_all(b"last words\n").unwrap();
        batch.flush();
        assert_eq!(written.try_recv().unwrap(), b"last words\n");
    }

    #[test]
    fn a_reader_that_has_stopped_stops_nobody_and_hears_of_it() {
        let (sender, written) = mpsc::sync_channel(0);
        let mut batch = Batch::begin(Handing(sender)).unwrap();
        let line = vec![b'x'; ENOUGH];
        for _ in 0..3 * MOST / ENOUGH {
            batch.write_all(&line).unwrap();
        }
        let told = written.iter().find(|bytes| bytes.starts_with(b"pierhead"));
        let told = String::from_utf8(told.unwrap()).unwrap();
        assert!(told.contains("log lines were lost"), "{told}");
    }
}
