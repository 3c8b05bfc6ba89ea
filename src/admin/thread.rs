//! The thread of the admin side.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Api, serve};
use crate::config::Admin;
use crate::pulse::Pulse;
use crate::side_thread::{SideRuntime, SideThread};

/// How long its end is waited for: as long as jobs may take, which begin to end together with the worker.
const END_LIMIT: Duration = Duration::from_secs(9);

/// The admin side at its work.
#[derive(Debug)]
pub struct AdminThread(SideThread);

/// Serves the admin side on a thread of its own. Jobs end when the process is told to stop (`stopping`), the rest when [`AdminThread::stop`] is called.
///
/// # Errors
/// The system has no thread for it.
pub fn start(listener: TcpListener, config: Admin, api: Api, (pulse, stopping): (Pulse, CancellationToken)) -> io::Result<AdminThread> {
    // Its events come from the runtime that it is registered with.
    let listener = listener.into_std()?;
    let runtime = SideRuntime::new()?;
    let listener = runtime.make(|| TcpListener::from_std(listener))?;
    let stop = CancellationToken::new();
    let until = stop.clone();
    let work = async move {
        let following = tokio::spawn({
            let (holds, until) = (api.holds.clone(), until.clone());
            async move { holds.follow(until).await }
        });
        let jobs = api.jobs.clone();
        // As soon as the process is told to stop, at the same time as its deliveries: they may have letters in hand.
        let stopping = tokio::spawn(async move {
            stopping.cancelled().await;
            jobs.stop().await;
        });
        serve(listener, config, api, pulse, until).await;
        let _ = tokio::join!(following, stopping);
    };
    runtime.start("admin", stop, move || work).map(AdminThread)
}

impl AdminThread {
    /// Ends it; what it has not answered by then is cut off.
    pub async fn stop(self) {
        self.0.stop(END_LIMIT).await;
    }
}
