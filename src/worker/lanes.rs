//! The lanes: one per endpoint, made on demand, gone when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Shared;
use super::delivery::{self, Delivery};
use crate::domain::lane::Lane;
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::telemetry::Telemetry;

type LaneKey = (IntegratorKey, EndpointId);

/// All lanes that have work.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<LaneKey, Lane<Delivery>>>);

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, HashMap<LaneKey, Lane<Delivery>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops everything that waits for its turn: it is unsettled, so the broker has it back when the channel closes.
    pub(super) fn give_back(&self, telemetry: &Telemetry) {
        for lane in self.lock().values_mut() {
            telemetry.lane_waiting_sub(lane.drain().count());
        }
    }
}

/// Puts a delivery in line at its endpoint and starts whatever may start.
pub(super) fn push(shared: &Arc<Shared>, delivery: Delivery) {
    let key = (delivery.endpoint.integrator.clone(), delivery.endpoint.id.clone());
    shared.telemetry.lane_waiting_add(1);
    shared.lanes.lock().entry(key.clone()).or_default().push(delivery);
    pump(shared, &key);
}

/// Starts deliveries of one lane as long as its endpoint has room.
fn pump(shared: &Arc<Shared>, key: &LaneKey) {
    let mut lanes = shared.lanes.lock();
    let Some(lane) = lanes.get_mut(key) else { return };
    while !shared.stopping.is_cancelled()
        && let Some(limit) = lane.peek().map(|next| next.endpoint.max_in_flight)
        && let Some(delivery) = lane.start(limit)
    {
        shared.telemetry.lane_waiting_sub(1);
        let turn = Turn { shared: Arc::clone(shared), key: key.clone() };
        shared.tasks.spawn(async move {
            let turn = turn;
            delivery::run(&turn.shared, delivery).await;
        });
    }
    if lane.is_idle() {
        lanes.remove(key);
    }
}

/// A delivery's turn. Dropping it, also by a panic, lets the next one start.
struct Turn {
    shared: Arc<Shared>,
    key: LaneKey,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lane) = self.shared.lanes.lock().get_mut(&self.key) {
            lane.finish();
        }
        pump(&self.shared, &self.key);
    }
}

/// Whenever a queue's connection is lost, drops what waits in the lanes for that connection: the broker delivers it
/// again, and a hanging endpoint would otherwise collect a prefetch window with every reconnect.
pub(super) async fn forget_the_dead(shared: Arc<Shared>, mut live: watch::Receiver<bool>) {
    while live.changed().await.is_ok() {
        if *live.borrow_and_update() {
            continue;
        }
        for lane in shared.lanes.lock().values_mut() {
            let dropped = lane.retain(|delivery| !delivery.parcel.over().is_cancelled());
            shared.telemetry.lane_waiting_sub(dropped);
        }
    }
}
