//! Lines on their way to an output that may be slow: kept in memory, written by a thread of their own, many at a time.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// After a write, lines collect for so long before the next one. A busy worker so makes 200 writes a second instead of one for
/// each line, and its own thread never stops to wake the one that writes.
const COLLECT: Duration = Duration::from_millis(5);

/// Memory for lines that is kept for the next ones: what 10,000 lines a second need.
const KEPT: usize = 64 * 1024;

/// The stack of the thread that writes; it does nothing else.
const STACK: usize = 128 * 1024;

/// Where lines wait. Clones are the same spool.
#[derive(Clone)]
pub(super) struct Spool(Arc<Shared>);

struct Shared {
    /// The most bytes that wait; lines beyond are dropped and counted.
    limit: usize,
    waiting: Mutex<Waiting>,
    /// Told when a line comes while the thread has nothing to do, and at the end.
    news: Condvar,
    /// Told when the thread has ended.
    ended: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    state: State,
}

/// What the thread is about.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It writes, or lets lines collect.
    #[default]
    Busy,
    /// It waits for the first line and has to be woken.
    Idle,
    /// It is to write what is there and to end.
    Closing,
    /// It is gone.
    Ended,
}

impl Spool {
    /// Starts a thread that writes to `output`. At most `limit` bytes wait for it, and as many again are being written.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(mut output: impl io::Write + Send + 'static, limit: usize) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { limit, waiting: Mutex::default(), news: Condvar::new(), ended: Condvar::new(), dropped: AtomicU64::new(0) });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).stack_size(STACK).spawn(move || of_thread.write_to(&mut output))?;
        Ok(Self(shared))
    }

    /// Lines that were dropped because the output did not take the ones before in time.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until every line is written, at most so long. Lines that come later are dropped.
    pub(super) fn close(&self, limit: Duration) {
        let mut waiting = self.0.lock();
        if waiting.state != State::Ended {
            waiting.state = State::Closing;
        }
        self.0.news.notify_one();
        drop(self.0.ended.wait_timeout_while(waiting, limit, |waiting| waiting.state != State::Ended));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        let closed = matches!(waiting.state, State::Closing | State::Ended);
        if closed || waiting.lines.len() + line.len() > self.limit {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        if waiting.state == State::Idle {
            waiting.state = State::Busy;
            drop(waiting);
            self.news.notify_one();
        }
    }

    fn write_to(&self, output: &mut impl io::Write) {
        let mut lines = Vec::new();
        while self.take(&mut lines) {
            // An output that takes nothing any more is a log that nobody reads: no reason to stop.
            let _ = output.write_all(&lines);
            lines.clear();
            lines.shrink_to(KEPT);
            let waiting = self.lock();
            drop(self.news.wait_timeout_while(waiting, COLLECT, |waiting| waiting.state == State::Busy));
        }
        let _ = output.flush();
        self.lock().state = State::Ended;
        self.ended.notify_all();
    }

    /// Waits for lines and takes all there are; `false` at the end.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() {
            if waiting.state == State::Closing {
                return false;
            }
            waiting.state = State::Idle;
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        mem::swap(&mut waiting.lines, lines);
        true
    }
}

impl<'a> MakeWriter<'a> for Spool {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each write is one whole line, which is how lines come out of `tracing-subscriber`.
impl io::Write for &Spool {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
