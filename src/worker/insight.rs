//! What others may see of a running worker, from whatever thread.

use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::{Shared, lanes};
use crate::domain::integrator::Endpoint;
use crate::domain::lane::{Standing, View};
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

    /// How an endpoint stands at this worker; `None` when the worker is no more.
    #[must_use]
    pub fn lane(&self, endpoint: &Endpoint) -> Option<View> {
        let shared = self.shared.upgrade()?;
        Some(lanes::view(&shared, endpoint).unwrap_or_else(|| {
            let is_held = shared.holds.borrow().on(&endpoint.integrator, &endpoint.id).is_some();
            View { standing: if is_held { Standing::Held } else { Standing::Working }, in_flight: 0, waiting: 0, oldest: None, parked: 0 }
        }))
    }

    /// Calls an endpoint with a ping, on the worker's own runtime, whose connections these are; `None` when the worker is no more.
    pub async fn ping(&self, endpoint: Arc<Endpoint>) -> Option<Reply> {
        let shared = self.shared.upgrade()?;
        let ping = self.runtime.spawn(async move { egress::ping(&shared.egress, &shared.tokens, &endpoint).await });
        ping.await.ok()
    }
}
