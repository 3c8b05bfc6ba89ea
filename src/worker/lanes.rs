//! The lanes: one per endpoint, made on demand, gone when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::delivery::{self, Delivery};
use super::{Shared, settle};
use crate::domain::lane::Lane;
use crate::domain::names::{EndpointId, IntegratorKey};

/// The longest that a delivery waits for its turn here; then it goes on waiting in the ladder. Far below RabbitMQ's limit of
/// 30 minutes on an unacknowledged message, which would return a whole prefetch window.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the lanes are looked through for those.
const LOOK: Duration = Duration::from_secs(5);

type LaneKey = (IntegratorKey, EndpointId);

/// All lanes that have work.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<LaneKey, Lane<Delivery>>>);

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, HashMap<LaneKey, Lane<Delivery>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what `choose` takes from each lane.
    fn take(&self, shared: &Shared, mut choose: impl FnMut(&mut Lane<Delivery>) -> Vec<Delivery>) -> Vec<Delivery> {
        let taken: Vec<Delivery> = self.lock().values_mut().flat_map(&mut choose).collect();
        shared.telemetry.lane_waiting_sub(taken.len());
        taken
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
        && let Some(limit) = lane.peek().map(|next| next.endpoint.policy.max_in_flight)
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

/// At a stop: whatever waits for its turn goes back to the broker with its message, unless the event has been told at another
/// endpoint already. That one would be told again, so the delivery goes alone into the ladder instead.
pub(super) fn give_back(shared: &Arc<Shared>) {
    let waiting = shared.lanes.take(shared, |lane| lane.drain().collect());
    for delivery in waiting.into_iter().filter(|delivery| delivery.stake.is_begun()) {
        let on = Arc::clone(shared);
        shared.tasks.spawn(async move { settle::park(&on, delivery).await });
    }
}

/// Moves what has waited too long for its turn into the ladder, so that no message stays unacknowledged for long.
pub(super) async fn park_the_patient(shared: Arc<Shared>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let Some(latest) = Instant::now().checked_sub(PATIENCE) else { continue };
        for delivery in shared.lanes.take(&shared, |lane| lane.take_while(|delivery| delivery.since < latest)) {
            let on = Arc::clone(&shared);
            shared.tasks.spawn(async move { settle::park(&on, delivery).await });
        }
    }
}

/// Whenever a queue's session ends, drops what waits in the lanes for that session: the broker delivers it again, and a
/// hanging endpoint would otherwise collect a prefetch window with every reconnect.
pub(super) async fn drop_what_is_over(shared: Arc<Shared>, mut live: watch::Receiver<bool>) {
    while live.changed().await.is_ok() {
        if *live.borrow_and_update() {
            continue;
        }
        let dropped: usize =
            shared.lanes.lock().values_mut().map(|lane| lane.retain(|delivery| !delivery.stake.parcel().over().is_cancelled())).sum();
        shared.telemetry.lane_waiting_sub(dropped);
    }
}
