//! One run of a job, from its turn to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::board::Taken;
use super::errand::{Action, Errand, Tally, run};
use super::job::{Job, JobKind, JobState};
use super::jobs::Shared;
use super::leash::{Leash, Limits};
use super::pass::Broken;
use super::unreadable::Unreadable;
use crate::broker::Outlet;
use crate::broker::connection::Pause;
use crate::config::Config;

/// How long a job tries without getting on before it has failed. A broker that is started again is there by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most letters of a job that stay: who they are is kept in memory, so that none is tried again and again.
const MOST_FAILED: usize = 10_000;

/// How often it is asked whether another worker's job is still on the queue.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What a run came to, and what else is to be known.
type End = (JobState, Option<String>);

/// How long a job waits for who else has letters of its queue in hand: a look at many takes some seconds.
const OTHERS: Duration = Duration::from_secs(10);

/// Works until everything is done, it is told to stop, or it cannot go on.
pub(super) async fn work(shared: &Shared, taken: &Taken) -> End {
    let Taken { job, meter, stop } = taken;
    if stop.run_until_cancelled(others_end(shared, job)).await.is_none() {
        return (JobState::Interrupted, None);
    }
    shared.runs(&job.id);
    let filter = job.spec.filter.clone().before_question(job.asked_at);
    let limits = Limits { stop: stop.clone(), rate: job.spec.pace(), gate: Some(shared.gate(job.spec.queue)) };
    let done = usize::try_from(job.progress.done).unwrap_or(usize::MAX);
    let action = if job.spec.kind == JobKind::Discard { Action::Discard } else { Action::Count };
    let mut errand = Errand::new(&shared.config, filter, action, Leash::new(limits), meter.as_ref()).that_wants_its_broker(done);
    let mut effort = Effort::new(done);
    loop {
        let came_to = once(&mut errand, job, &shared.config).await;
        let tally = errand.tally();
        let has_got_on = effort.has_got_on(tally.done);
        let held_for = effort.held_for(came_to.is_ok() && errand.met_others());
        if errand.is_complete(&came_to) && held_for.is_none() {
            return (JobState::Done, (tally.seen == 0 && tally.done == 0 && tally.failed == 0).then(|| "the queue was empty".to_owned()));
        }
        if stop.is_cancelled() {
            return (JobState::Interrupted, None);
        }
        if tally.failed > MOST_FAILED {
            return (JobState::Failed { why: format!("more than {MOST_FAILED} letters stay where they are") }, None);
        }
        match came_to {
            Ok(_) if held_for.is_some_and(|time| time > OTHERS) => return (JobState::Failed { why: held_by_others(tally) }, None),
            Ok(_) if held_for.is_some() => {
                stop.run_until_cancelled(sleep(ASK_AGAIN)).await;
            }
            // What stood behind it has come forward.
            Ok(Some(met)) if met.behind > 0 && has_got_on => {}
            Ok(Some(met)) if met.behind > 0 => return (JobState::Failed { why: met.to_string() }, None),
            Ok(met) => return (JobState::Done, met.map(|met| met.to_string())),
            Err(broken) if effort.is_in_vain() || is_for_good(&broken) => return (JobState::Failed { why: broken.to_string() }, None),
            Err(_) => {
                stop.run_until_cancelled(sleep(effort.pause.next(fastrand::f64()))).await;
            }
        }
    }
}

/// Why a job has failed though it did what it could: whoever holds letters takes them out of sight.
fn held_by_others(tally: Tally) -> String {
    let come_to = match (tally.seen, tally.done) {
        (0, 0) => "no letter was seen and nothing was done".to_owned(),
        (_, done) => format!("{done} are done and others may not have been seen"),
    };
    format!("somebody else has letters of this queue in hand, so {come_to}: resume the job when they are through")
}

/// Whether it gets on.
struct Effort {
    last_done: usize,
    since: Instant,
    /// Others have had letters in hand from then on.
    held_since: Option<Instant>,
    pause: Pause,
}

impl Effort {
    fn new(done: usize) -> Self {
        Self { last_done: done, since: Instant::now(), held_since: None, pause: Pause::new() }
    }

    fn has_got_on(&mut self, done: usize) -> bool {
        let has_got_on = done > self.last_done;
        if has_got_on {
            *self = Self::new(done);
        }
        has_got_on
    }

    fn held_for(&mut self, is_held: bool) -> Option<Duration> {
        self.held_since = is_held.then(|| self.held_since.unwrap_or_else(Instant::now));
        self.held_since.map(|since| since.elapsed())
    }

    fn is_in_vain(&self) -> bool {
        self.since.elapsed() > PATIENCE
    }
}

/// No new try mends it: the queue or a permission is missing. A worker's user on the broker may have no right to read these queues.
fn is_for_good(broken: &Broken) -> bool {
    matches!(broken, Broken::Broker(error) if error.is_missing() || error.is_denied())
}

/// Runs the errand with a connection of its own.
async fn once(errand: &mut Errand<'_>, job: &Job, config: &Config) -> Result<Option<Unreadable>, Broken> {
    let queue = job.spec.queue.name(config);
    if job.spec.kind == JobKind::Discard {
        return run(errand, queue).await;
    }
    let outlet = Arc::new(Outlet::open(&config.broker, "job").await?);
    errand.through_another(Action::Replay(Arc::clone(&outlet)));
    let done = run(errand, queue).await;
    outlet.close().await;
    done
}

/// Returns when no job of another worker works on the queue: both would take each other's letters out of sight. Should two begin in the
/// same moment, each letter is still one's alone.
async fn others_end(shared: &Shared, job: &Job) {
    let Some(records) = &shared.records else { return };
    while let Ok(true) = records.is_busy(job.spec.queue).await {
        sleep(ASK_AGAIN).await;
    }
}
