//! The lanes: one per endpoint, made on demand, forgotten when there is nothing to remember.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::delivery::{self, Delivery};
use super::{Shared, settle};
use crate::clock;
use crate::domain::circuit::Change;
use crate::domain::hold::Holds;
use crate::domain::integrator::{Directory, Endpoint};
use crate::domain::lane::{Cause, Departure, Ending, Lane, Next, Room, Turn, View};
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::domain::reply::Reply;
use crate::telemetry::{Fact, ResumeCause, WaitCause};

/// How often lines that stand are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Lanes that remember nothing are forgotten every so many looks.
const LOOKS_BEFORE_SWEEP: u32 = 50;

/// All lanes that have work or something to remember.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<IntegratorKey, HashMap<EndpointId, Arc<Place>>>>);

/// An endpoint's lane, and the endpoint as it is configured now.
pub(super) struct Place {
    integrator: IntegratorKey,
    id: EndpointId,
    state: Mutex<State>,
}

struct State {
    /// As it is configured now, or was last.
    endpoint: Arc<Endpoint>,
    is_configured: bool,
    lane: Lane<Delivery>,
    /// The one timer, and for when it is set.
    timer: Option<(Instant, AbortHandle)>,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, HashMap<IntegratorKey, HashMap<EndpointId, Arc<Place>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of an endpoint.
    fn of(&self, endpoint: &Arc<Endpoint>, holds: &watch::Receiver<Arc<Holds>>, now: Instant) -> Arc<Place> {
        let mut all = self.lock();
        if let Some(place) = all.get(&endpoint.integrator).and_then(|of_integrator| of_integrator.get(&endpoint.id)) {
            return Arc::clone(place);
        }
        let mut lane = Lane::new(&endpoint.policy, now);
        lane.hold(holds.borrow().on(&endpoint.integrator, &endpoint.id).is_some());
        let state = State { endpoint: Arc::clone(endpoint), is_configured: true, lane, timer: None };
        let place = Arc::new(Place { integrator: endpoint.integrator.clone(), id: endpoint.id.clone(), state: Mutex::new(state) });
        all.entry(endpoint.integrator.clone()).or_default().insert(endpoint.id.clone(), Arc::clone(&place));
        place
    }

    fn all(&self) -> Vec<Arc<Place>> {
        self.lock().values().flat_map(HashMap::values).cloned().collect()
    }

    /// Forgets the lanes that have nothing to remember.
    fn sweep(&self, now: Instant) {
        self.lock().retain(|_, of_integrator| {
            of_integrator.retain(|_, place| Arc::strong_count(place) > 1 || !place.lock().is_forgettable(now));
            !of_integrator.is_empty()
        });
    }
}

impl State {
    /// What is held against an endpoint that is no longer configured is of no use to anybody.
    fn is_forgettable(&self, now: Instant) -> bool {
        self.lane.is_forgettable(now) || (!self.is_configured && self.lane.is_empty())
    }

    /// Messages that the prefetch window of the newest in line may hold, and has room for.
    fn window(&self) -> (usize, usize) {
        self.lane.newest().map_or((0, 0), |newest| newest.stake.parcel().original.held.window())
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that may start.
pub(super) struct Start {
    pub seat: Seat,
    pub work: Vec<Delivery>,
}

/// A request's place in its lane. Dropping it, also by a panic, gives the place back and lets the next one start.
pub(super) struct Seat {
    shared: Arc<Shared>,
    place: Arc<Place>,
    turn: Option<Turn>,
}

impl Seat {
    /// The endpoint as it is configured now.
    pub(super) fn endpoint(&self) -> Option<Arc<Endpoint>> {
        let state = self.place.lock();
        state.is_configured.then(|| Arc::clone(&state.endpoint))
    }

    /// The endpoint's name.
    pub(super) fn id(&self) -> &EndpointId {
        &self.place.id
    }

    /// Whether its request finds out whether the endpoint works again.
    pub(super) fn is_probe(&self) -> bool {
        self.turn.as_ref().is_some_and(Turn::is_probe)
    }

    /// Gives the place back, and draws from the reply what it says of the endpoint as a whole, as long as that is configured as
    /// it was when it was called. Returns the request that may start in its place: whoever is done can go on with it, which
    /// costs less than a new task.
    pub(super) fn finish(mut self, called: &Endpoint, reply: &Reply) -> Option<Start> {
        let now = Instant::now();
        let is_current = {
            let configured = &self.place.lock().endpoint;
            // Nearly always the very same one, which saves comparing all of it for every request.
            std::ptr::eq(&raw const **configured, called) || **configured == *called
        };
        if is_current && reply.is_gone() {
            pause(&self.shared, &self.place, called, now);
        }
        self.end(Ending { charge: is_current.then(|| reply.charge()), dice: fastrand::f64() }, now);
        let next = next_start(&self.shared, &self.place);
        pump(&self.shared, &self.place);
        next
    }

    fn end(&mut self, ending: Ending, now: Instant) {
        let Some(turn) = self.turn.take() else { return };
        let mut state = self.place.lock();
        let State { endpoint, lane, .. } = &mut *state;
        let endpoint = Arc::clone(endpoint);
        let change = lane.finish(turn, ending, &endpoint.policy, now);
        drop(state);
        if let Some(change) = change {
            tell(&self.shared, &endpoint, change);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.turn.is_some() {
            self.end(Ending { charge: None, dice: 0.5 }, Instant::now());
            pump(&self.shared, &self.place);
        }
    }
}

/// The lanes that deliveries were put into and where nothing was started since.
#[derive(Default)]
pub(super) struct Pushed(Vec<Arc<Place>>);

impl Pushed {
    /// Puts a delivery in line at its endpoint, which is the newest version there is.
    pub(super) fn push(&mut self, shared: &Arc<Shared>, endpoint: &Arc<Endpoint>, delivery: Delivery) {
        let now = Instant::now();
        let place = shared.lanes.of(endpoint, &shared.holds, now);
        renew(shared, &place, endpoint, now);
        shared.telemetry.lane_waiting_add(1);
        let has_been_away = delivery.stake.parcel().history.parked > 0;
        {
            let mut state = place.lock();
            if has_been_away {
                state.lane.came_back();
            }
            state.lane.push(delivery, now);
        }
        if !self.0.iter().any(|known| Arc::ptr_eq(known, &place)) {
            self.0.push(place);
        }
    }

    /// Starts whatever may start.
    pub(super) fn start(&mut self, shared: &Arc<Shared>) {
        self.0.drain(..).for_each(|place| pump(shared, &place));
    }
}

/// Starts requests of one lane as long as there may be more, then lets leave who makes room.
fn pump(shared: &Arc<Shared>, place: &Arc<Place>) {
    while let Some(next) = next_start(shared, place) {
        start(shared, next);
    }
    let mut state = place.lock();
    if state.lane.is_crowded(&state.endpoint.policy, shared.config.ladder.shortest(), Instant::now()) {
        make_room(shared, &mut state);
    }
}

/// Makes a request in a task of its own.
pub(super) fn start(shared: &Arc<Shared>, start: Start) {
    shared.tasks.spawn(delivery::run(Arc::clone(shared), start));
}

/// The next request of one lane, if it may start now; where it may later, a timer is set.
fn next_start(shared: &Arc<Shared>, place: &Arc<Place>) -> Option<Start> {
    if shared.stopping.is_cancelled() {
        return None;
    }
    let mut state = place.lock();
    let (window, _) = state.window();
    let State { endpoint, lane, .. } = &mut *state;
    match lane.next(&endpoint.policy, window, Instant::now(), Delivery::waiting) {
        Next::Start(work, turn) => {
            shared.telemetry.lane_waiting_sub(work.len());
            let seat = Seat { shared: Arc::clone(shared), place: Arc::clone(place), turn: Some(turn) };
            Some(Start { seat, work })
        }
        Next::Later(at) => {
            wake(shared, place, &mut state, at);
            None
        }
        Next::Nothing => None,
    }
}

/// Looks at the lane again at a time, with one timer for each lane at most.
fn wake(shared: &Arc<Shared>, place: &Arc<Place>, state: &mut State, at: Instant) {
    if state.timer.as_ref().is_some_and(|(set, _)| *set <= at) {
        return;
    }
    let (on, of) = (Arc::clone(shared), Arc::clone(place));
    let timer = tokio::spawn(async move {
        on.halt.run_until_cancelled(tokio::time::sleep_until(at.into())).await;
        of.lock().timer = None;
        pump(&on, &of);
    });
    if let Some((_, later)) = state.timer.replace((at, timer.abort_handle())) {
        later.abort();
    }
}

/// Moves what has to leave the line into the ladder.
fn make_room(shared: &Arc<Shared>, state: &mut State) {
    if shared.stopping.is_cancelled() {
        return;
    }
    let (window, free) = state.window();
    let State { endpoint, lane, .. } = state;
    let room = Room { window, free, shortest: shared.config.ladder.shortest() };
    let wall = clock::now();
    let turn_in = |delivery: &Delivery| delivery.stake.parcel().history.turn_in(wall);
    let departures = lane.depart(&endpoint.policy, room, Instant::now(), turn_in);
    shared.telemetry.lane_waiting_sub(departures.len());
    for Departure { work, need, cause } in departures {
        let (on, endpoint) = (Arc::clone(shared), Arc::clone(endpoint));
        let cause = match cause {
            Cause::Full => WaitCause::Parked,
            Cause::Shut => WaitCause::Circuit,
            Cause::Paused => WaitCause::Paused,
            Cause::Held => WaitCause::Held,
        };
        shared.tasks.spawn(async move { settle::park(&on, work, &endpoint, need, cause).await });
    }
}

/// The endpoint has answered 410: its further events wait until its configuration changes, or for as long as an event of it
/// is kept at all. Told for the first of those in flight.
fn pause(shared: &Shared, place: &Place, endpoint: &Endpoint, now: Instant) {
    let lasts = endpoint.policy.retry.max_age;
    let mut state = place.lock();
    // Who is told once more after a pause may answer before anybody has looked at the line.
    end_pause(shared, &mut state, now);
    if state.lane.pause(now + lasts) {
        shared.telemetry.record(&Fact::EndpointPaused { endpoint, until: clock::now().plus(lasts) });
    }
}

/// Ends a pause whose time is over, and tells it.
fn end_pause(shared: &Shared, State { endpoint, lane, .. }: &mut State, now: Instant) {
    if lane.end_pause(now) {
        shared.telemetry.record(&Fact::EndpointResumed { endpoint, cause: ResumeCause::TimeOver });
    }
}

fn tell(shared: &Shared, endpoint: &Endpoint, change: Change) {
    match change {
        Change::Opened { cause, failures, wait } => {
            let next_probe_at = clock::now().plus(wait);
            shared.telemetry.record(&Fact::CircuitOpened { endpoint, cause, failures, wait, next_probe_at });
        }
        Change::Closed { open_for } => shared.telemetry.record(&Fact::CircuitClosed { endpoint, open_for }),
    }
}

/// Takes over the endpoint's configuration as it is now; where it has changed, what was held against it is forgotten.
fn renew(shared: &Shared, place: &Place, newest: &Arc<Endpoint>, now: Instant) {
    let mut state = place.lock();
    let State { endpoint, is_configured, lane, .. } = &mut *state;
    if Arc::ptr_eq(endpoint, newest) && *is_configured {
        return;
    }
    let is_new = *std::mem::replace(endpoint, Arc::clone(newest)) != **newest || !*is_configured;
    *is_configured = true;
    if !is_new {
        return;
    }
    let renewed = lane.renew(&endpoint.policy, now);
    if renewed.was_paused {
        shared.telemetry.record(&Fact::EndpointResumed { endpoint, cause: ResumeCause::ConfigurationChanged });
    }
    if let Some(open_for) = renewed.circuit {
        shared.telemetry.record(&Fact::CircuitClosed { endpoint, open_for });
    }
}

/// At a stop: whatever waits for its turn goes back to the broker with its message, unless the event has been told at another
/// endpoint already. That one would be told again, so the delivery goes alone into the ladder instead.
pub(super) fn give_back(shared: &Arc<Shared>) {
    for place in shared.lanes.all() {
        let mut state = place.lock();
        let State { endpoint, lane, .. } = &mut *state;
        let waiting: Vec<Delivery> = lane.drain().collect();
        shared.telemetry.lane_waiting_sub(waiting.len());
        make_way(shared, endpoint, waiting.into_iter());
    }
}

/// Puts those into the ladder whose event has been told at another endpoint already, and lets go of the others.
pub(super) fn make_way(shared: &Arc<Shared>, endpoint: &Arc<Endpoint>, deliveries: impl Iterator<Item = Delivery>) {
    for delivery in deliveries.filter(|delivery| delivery.stake.is_begun()) {
        let (on, endpoint) = (Arc::clone(shared), Arc::clone(endpoint));
        shared.tasks.spawn(async move { settle::make_way(&on, delivery, &endpoint).await });
    }
}

/// Looks at the lines that stand, for ever: an endpoint that hangs gives no other occasion. Forgets idle lanes on the way.
pub(super) async fn watch_lines(shared: Arc<Shared>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for looks in 1_u32.. {
        look.tick().await;
        let now = Instant::now();
        for place in shared.lanes.all() {
            let mut state = place.lock();
            end_pause(&shared, &mut state, now);
            let has_line = state.lane.has_line();
            drop(state);
            if has_line {
                pump(&shared, &place);
            }
        }
        if looks % LOOKS_BEFORE_SWEEP == 0 {
            shared.lanes.sweep(now);
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
        for place in shared.lanes.all() {
            let dropped = place.lock().lane.retain(|delivery| !delivery.stake.parcel().over().is_cancelled());
            shared.telemetry.lane_waiting_sub(dropped);
        }
    }
}

/// After every reload, tells the lanes what has become of their endpoints. What waits for one that is no longer configured
/// goes on waiting in the ladder for its configuration.
pub(super) async fn follow_directory(shared: Arc<Shared>, mut directory: watch::Receiver<Arc<Directory>>) {
    while directory.changed().await.is_ok() {
        let newest = Arc::clone(&directory.borrow_and_update());
        shared.egress.keep_only(&newest);
        shared.tokens.keep(&newest);
        for place in shared.lanes.all() {
            if let Some(endpoint) = newest.endpoint(&place.integrator, &place.id) {
                renew(&shared, &place, endpoint, Instant::now());
                pump(&shared, &place);
                continue;
            }
            let mut state = place.lock();
            state.is_configured = false;
            let waiting: Vec<Delivery> = state.lane.drain().collect();
            drop(state);
            shared.telemetry.lane_waiting_sub(waiting.len());
            orphan(&shared, &place.id, waiting);
        }
    }
}

/// Whenever operators pause endpoints or let them go on, tells the lanes.
pub(super) async fn follow_holds(shared: Arc<Shared>, mut holds: watch::Receiver<Arc<Holds>>) {
    while holds.changed().await.is_ok() {
        let newest = Arc::clone(&holds.borrow_and_update());
        for place in shared.lanes.all() {
            place.lock().lane.hold(newest.on(&place.integrator, &place.id).is_some());
            pump(&shared, &place);
        }
    }
}

/// How each lane stands that has something to remember.
pub(super) fn views(shared: &Shared) -> Vec<(IntegratorKey, EndpointId, View)> {
    let now = Instant::now();
    let view = |place: Arc<Place>| (place.integrator.clone(), place.id.clone(), place.lock().lane.view(now));
    shared.lanes.all().into_iter().map(view).collect()
}

/// How an endpoint's lane stands; `None` where it has nothing to remember.
pub(super) fn view(shared: &Shared, endpoint: &Endpoint) -> Option<View> {
    let place = shared.lanes.lock().get(&endpoint.integrator)?.get(&endpoint.id).map(Arc::clone)?;
    let view = place.lock().lane.view(Instant::now());
    Some(view)
}

/// The endpoint of these is no longer configured.
pub(super) fn orphan(shared: &Arc<Shared>, id: &EndpointId, deliveries: Vec<Delivery>) {
    for Delivery { stake } in deliveries {
        let (on, id) = (Arc::clone(shared), id.clone());
        shared.tasks.spawn(async move { settle::unknown(&on, stake, Some(&id)).await });
    }
}
