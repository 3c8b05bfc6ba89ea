//! Whether the process can do its work now, and if not, why.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What must hold for the process to be ready.
#[derive(Debug, Clone)]
pub struct Readiness {
    links: Vec<(String, watch::Receiver<bool>)>,
    blocked: watch::Receiver<bool>,
    stopping: CancellationToken,
}

impl Readiness {
    /// Ready while every link (a queue that is consumed, `publish`) is up, the broker does not block what is published,
    /// and the process has not been told to stop. A link whose sender is gone counts as down.
    #[must_use]
    pub const fn new(links: Vec<(String, watch::Receiver<bool>)>, blocked: watch::Receiver<bool>, stopping: CancellationToken) -> Self {
        Self { links, blocked, stopping }
    }

    /// What is missing, a line each; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let stopping = self.stopping.is_cancelled().then(|| "stopping".to_owned());
        let blocked = self.blocked.borrow().then(|| "the broker blocks what is published".to_owned());
        let down = self.links.iter().filter(|(_, up)| !*up.borrow() || up.has_changed().is_err());
        stopping.into_iter().chain(blocked).chain(down.map(|(name, _)| format!("{name}: not connected"))).collect()
    }
}
