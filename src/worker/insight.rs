//! What others may see of a running worker, from whatever thread.

use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::{Shared, lanes};
use crate::domain::integrator::Endpoint;
use crate::domain::lane::View;
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::domain::reply::Reply;
use crate::egress;

/// A look at a running worker. Keeps nothing of it alive.
#[derive(Clone)]
pub struct Insight {
    shared: Weak<Shared>,
    runtime: Handle,
}

impl Insight {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared), runtime: Handle::current() }
    }

    /// A look at a worker that is no more. Must be called within a runtime.
    #[must_use]
    pub fn of_no_worker() -> Self {
        Self { shared: Weak::new(), runtime: Handle::current() }
    }

    /// How an endpoint stands at this worker: idle where nothing is remembered of it, or the worker is no more.
    #[must_use]
    pub fn lane(&self, endpoint: &Endpoint) -> View {
        self.shared.upgrade().and_then(|shared| lanes::view(&shared, endpoint)).unwrap_or(View::IDLE)
    }

    /// How each endpoint stands of which something is remembered.
    #[must_use]
    pub fn lanes(&self) -> Vec<(IntegratorKey, EndpointId, View)> {
        self.shared.upgrade().map_or_else(Vec::new, |shared| lanes::views(&shared))
    }

    /// Calls an endpoint with a ping, on the worker's own runtime, whose connections these are; `None` when the worker is no more.
    pub async fn ping(&self, endpoint: Arc<Endpoint>) -> Option<Reply> {
        let shared = self.shared.upgrade()?;
        let ping = self.runtime.spawn(async move { egress::ping(&shared.egress, &shared.tokens, &endpoint).await });
        ping.await.ok()
    }
}
