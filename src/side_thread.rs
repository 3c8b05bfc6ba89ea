//! A thread with a runtime of its own, for what is to take nothing from the thread that delivers.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The runtime of a thread that is still to be started.
#[derive(Debug)]
pub(crate) struct SideRuntime(Runtime);

/// A thread at its work. Dropped, it goes on.
#[derive(Debug)]
pub(crate) struct SideThread {
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl SideRuntime {
    /// Nothing runs on it yet.
    ///
    /// # Errors
    /// The system has nothing to wait for events with.
    pub(crate) fn new() -> io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(Self)
    }

    /// Makes something whose events are to come from this runtime.
    pub(crate) fn make<T>(&self, what: impl FnOnce() -> T) -> T {
        let _there = self.0.enter();
        what()
    }

    /// Starts a thread of this name, which ends with its work. The work is to end when `stop` is cancelled.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(crate) fn start<F: Future<Output = ()>>(
        self,
        name: &str,
        stop: CancellationToken,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<SideThread> {
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            self.0.block_on(work());
            // A look-up of a name may still run, and is not waited for.
            self.0.shutdown_background();
            let _ = end.send(());
        })?;
        Ok(SideThread { stop, ended })
    }
}

impl SideThread {
    /// Tells it to stop, and waits for its end, but no longer than this.
    pub(crate) async fn stop(self, limit: Duration) {
        self.stop.cancel();
        let _ = timeout(limit, self.ended).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;
    use std::time::Instant;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn a_thread_has_its_name_and_is_waited_for_when_it_is_told_to_stop() {
        let (stop, (tell, told)) = (CancellationToken::new(), mpsc::channel());
        let until = stop.clone();
        let work = move || async move {
            let _ = tell.send(thread::current().name().map(str::to_owned));
            until.cancelled().await;
            sleep(Duration::from_millis(50)).await;
            let _ = tell.send(None);
        };
        let thread = SideRuntime::new().unwrap().start("beside", stop, work).unwrap();
        assert_eq!(told.recv().unwrap().as_deref(), Some("beside"));
        thread.stop(Duration::from_secs(20)).await;
        assert_eq!(told.try_recv(), Ok(None));
    }

    #[tokio::test]
    async fn work_that_does_not_end_is_not_waited_for_longer_than_the_limit() {
        let thread = SideRuntime::new().unwrap().start("beside", CancellationToken::new(), pending).unwrap();
        let start = Instant::now();
        thread.stop(Duration::from_millis(50)).await;
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
