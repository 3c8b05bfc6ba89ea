//! Runs jobs, one at a time on each queue, and keeps account of them.
//!
//! Jobs are tasks of the runtime on which they are started or resumed. A job takes nothing out of its queue that is not confirmed elsewhere,
//! so it may end at any moment, and what it has done has left the queue: resumed, it goes on where it was. Where there is a database of
//! the delivery log, jobs are written to it and outlive their worker; one that fails holds up no job.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::board::{Board, Ending};
use super::errand::{Action, Errand, Watch, run};
use super::filter::{Filter, Queue};
use super::gate::Gate;
use super::job::{Count, Job, JobId, JobSpec, JobState, Progress, Refused};
use super::leash::{Leash, Limits};
use super::look::{Page, list};
use super::task;
use crate::clock;
use crate::config::Config;
use crate::domain::time::Timestamp;
use crate::store::jobs::Records;
use crate::telemetry::{Fact, Telemetry};

/// How long who looks waits for a job to make room: it has to return all messages first.
const VISIT: Duration = Duration::from_secs(30);

/// How long a stop waits for the messages in hand to be confirmed and the others to be returned.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// How long it then waits for the account of it to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// How often progress is written.
const EACH: Duration = Duration::from_secs(1);

/// The jobs of a worker. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

/// What the tasks of jobs share.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) records: Option<Records>,
    gates: [Arc<Gate>; 3],
    telemetry: Telemetry,
    worker: String,
    board: Mutex<Board>,
    changed: Notify,
    /// The recorder has been started.
    is_recording: AtomicBool,
    tasks: TaskTracker,
    /// Tasks that have not ended in time are to be dropped.
    pub(super) drops: CancellationToken,
    /// The recorder is to end.
    ended: CancellationToken,
}

impl Jobs {
    /// No job yet. `worker` is how this process is called where jobs are told.
    #[must_use]
    pub fn new(config: Arc<Config>, telemetry: Telemetry, worker: String) -> Self {
        // Not the worker's name: a container that is started again has the same.
        let instance = format!("{:016x}", fastrand::u64(..));
        let database = config.delivery_log.database.clone();
        let records = database.map(|database| Records::new(database, instance, telemetry.clone()));
        Self(Arc::new(Shared {
            config,
            records,
            gates: Queue::ALL.map(|_| Arc::default()),
            telemetry,
            worker,
            board: Mutex::default(),
            changed: Notify::new(),
            is_recording: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            drops: CancellationToken::new(),
            ended: CancellationToken::new(),
        }))
    }

    /// Starts a job for somebody, or puts it in line behind those on the same queue. To be called on the runtime that is to run it.
    ///
    /// # Errors
    /// It makes no sense, too many wait already, or the process ends.
    pub fn start(&self, spec: JobSpec, actor: &str) -> Result<Job, Refused> {
        self.start_as_of(spec, actor, clock::now())
    }

    /// The same for what was in the queue at an earlier time: when somebody was shown what it is about, and asked.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as_of(&self, spec: JobSpec, actor: &str, asked_at: Timestamp) -> Result<Job, Refused> {
        spec.check()?;
        let now = clock::now();
        let job = Job {
            id: JobId::new(now, fastrand::u64(..)),
            spec,
            asked_by: actor.to_owned(),
            asked_at: asked_at.min(now),
            state: JobState::Queued,
            progress: Progress::default(),
            note: None,
            worker: self.0.worker.clone(),
            run: 1,
            started_at: None,
            ended_at: None,
        };
        self.0.put(job.clone(), (actor, "start job"))?;
        Ok(job)
    }

    /// What a job would do now. Changes nothing; takes as long as a look at the whole queue.
    ///
    /// # Errors
    /// It makes no sense, or the queue cannot be looked at.
    pub async fn count(&self, spec: &JobSpec) -> Result<Count, Refused> {
        spec.filter.check(spec.queue)?;
        let gate = self.0.gate(spec.queue);
        let _way = gate.visit(VISIT).await.ok_or(Refused::Busy)?;
        let filter = spec.filter.clone().before_question(clock::now());
        let leash = Leash::new(Limits::default());
        let mut errand = Errand::new(&self.0.config, filter, Action::Count, leash, &Unwatched);
        let done = run(&mut errand, spec.queue.name(&self.0.config)).await;
        let unreadable = done.map_err(|broken| Refused::Broker(broken.to_string()))?;
        let tally = errand.tally();
        Ok(Count { seen: tally.seen as u64, fitting: tally.fitting as u64, note: unreadable.map(|unreadable| unreadable.to_string()) })
    }

    /// Letters of a queue, as [`list`] shows them. A job on the queue makes room for this.
    ///
    /// # Errors
    /// The filter makes no sense, or the queue cannot be looked at.
    pub async fn letters(&self, queue: Queue, filter: &Filter, after: u32, limit: usize) -> Result<Page, Refused> {
        filter.check(queue)?;
        let gate = self.0.gate(queue);
        let _way = gate.visit(VISIT).await.ok_or(Refused::Busy)?;
        list(&self.0.config, queue, filter, after, limit).await.map_err(|broken| Refused::Broker(broken.to_string()))
    }

    /// All jobs that are remembered, the newest first: this worker's, and where there is a database, those of all. Without the others'
    /// while the database does not answer.
    pub async fn list(&self) -> Vec<Job> {
        let mut jobs: BTreeMap<JobId, Job> = self.0.board().all();
        if let Some(records) = &self.0.records {
            for job in records.all().await.unwrap_or_default() {
                if jobs.get(&job.id).is_none_or(|known| known.run < job.run) {
                    jobs.insert(job.id.clone(), job);
                }
            }
        }
        jobs.into_values().rev().collect()
    }

    /// One job.
    ///
    /// # Errors
    /// There is none, or the database that may know it does not answer.
    pub async fn get(&self, id: &JobId) -> Result<Job, Refused> {
        let known = self.0.board().get(id);
        if let Some(open) = known.as_ref().filter(|job| job.state.is_open()) {
            return Ok(open.clone());
        }
        let Some(records) = &self.0.records else { return known.ok_or(Refused::Unknown) };
        match (records.get(id).await, known) {
            (Ok(Some(job)), None) => Ok(job),
            (Ok(Some(job)), Some(known)) if job.run > known.run => Ok(job),
            (_, Some(known)) => Ok(known),
            (Ok(None), None) => Err(Refused::Unknown),
            (Err(error), None) => Err(Refused::Database(error.to_string())),
        }
    }

    /// Ends a job after the message in hand; the answer may still call it running. One of another worker ends when that learns of it, within
    /// some seconds.
    ///
    /// # Errors
    /// There is none that is open.
    pub async fn cancel(&self, id: &JobId, actor: &str) -> Result<Job, Refused> {
        let job = self.get(id).await?;
        if !job.state.is_open() {
            return Err(Refused::State(job.state.as_str()));
        }
        self.0.audit(actor, "cancel job", &job);
        if let Some(job) = self.0.stop(id, Ending::Cancelled) {
            return Ok(job);
        }
        let Some(records) = &self.0.records else { return Err(Refused::Unknown) };
        match records.wish_cancelled(id, actor).await {
            Ok(true) => Ok(job),
            Ok(false) => Err(Refused::State("over")),
            Err(error) => Err(Refused::Database(error.to_string())),
        }
    }

    /// Goes on with a job that was cancelled, failed or was interrupted, here, whichever worker had it: the same job, with what was in the
    /// queue when it was first asked for. To be called on the runtime that is to run it.
    ///
    /// # Errors
    /// There is none that can be resumed, or another worker was first.
    pub async fn resume(&self, id: &JobId, actor: &str) -> Result<Job, Refused> {
        // What has ended here may not have been written yet.
        self.0.write().await;
        let job = self.get(id).await?;
        if !job.state.is_resumable() {
            return Err(Refused::State(job.state.as_str()));
        }
        self.0.board().has_room()?;
        let is_ours = self.0.board().get(id).is_some_and(|known| known.run == job.run);
        if let Some(records) = &self.0.records {
            match records.claim(id, job.run).await {
                Ok(true) => {}
                // It may never have been written.
                Ok(false) if is_ours && matches!(records.get(id).await, Ok(None)) => {}
                Ok(false) => return Err(Refused::State("another worker's")),
                Err(_) if is_ours => {}
                Err(error) => return Err(Refused::Database(error.to_string())),
            }
        }
        let job = Job {
            state: JobState::Queued,
            progress: Progress { failed: 0, fitting: job.progress.done, ..job.progress },
            note: None,
            worker: self.0.worker.clone(),
            run: job.run + 1,
            started_at: None,
            ended_at: None,
            ..job
        };
        self.0.put(job.clone(), (actor, "resume job"))?;
        Ok(job)
    }

    /// Ends all jobs after the messages in hand; they are interrupted and can be resumed. Takes 7 s at most: what is not returned by then goes
    /// back with its connection.
    pub async fn stop(&self) {
        let open = {
            let mut board = self.0.board();
            board.is_stopping = true;
            board.open()
        };
        for id in open {
            self.0.stop(&id, Ending::Stopping);
        }
        self.0.tasks.close();
        if timeout(STOP_LIMIT, self.0.tasks.wait()).await.is_err() {
            self.0.drops.cancel();
            let _ = timeout(EACH, self.0.tasks.wait()).await;
        }
        let _ = timeout(WRITE_LIMIT, self.0.write()).await;
        self.0.ended.cancel();
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gate(&self, queue: Queue) -> Arc<Gate> {
        Arc::clone(&self.gates[queue as usize])
    }

    fn audit(&self, actor: &str, action: &'static str, job: &Job) {
        let detail = format!("{} {}", job.id, job.spec.told());
        self.telemetry.record(&Fact::Audited { actor, action, detail: Some(&detail) });
    }

    /// Puts a job in line, for somebody who has done something.
    fn put(self: &Arc<Self>, job: Job, (actor, action): (&str, &'static str)) -> Result<(), Refused> {
        {
            let mut board = self.board();
            board.has_room()?;
            board.put(job.clone())?;
        }
        self.audit(actor, action, &job);
        self.go_on();
        Ok(())
    }

    /// Starts what can be started.
    fn go_on(self: &Arc<Self>) {
        if self.records.is_some() && !self.is_recording.swap(true, Ordering::Relaxed) {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.record().await });
        }
        let taken = self.board().take();
        for taken in taken {
            let shared = Arc::clone(self);
            self.tasks.spawn(async move {
                let id = taken.job.id.clone();
                // Whatever becomes of the task, its job does not stay open.
                let _ending = OnDrop(&shared, &id);
                let drops = shared.drops.clone();
                if let Some((state, note)) = drops.run_until_cancelled(Box::pin(task::work(&shared, &taken))).await {
                    shared.ended(&id, state, note);
                }
                shared.go_on();
            });
        }
        self.changed.notify_one();
    }

    /// A job has its queue for itself.
    pub(super) fn runs(&self, id: &JobId) {
        self.board().runs(id);
        self.changed.notify_one();
    }

    fn ended(&self, id: &JobId, state: JobState, note: Option<String>) {
        let ended = self.board().ended(id, state, note);
        if let Some(job) = ended {
            self.telemetry.record(&Fact::JobEnded { job: &job });
        }
        self.changed.notify_one();
    }

    fn stop(&self, id: &JobId, ending: Ending) -> Option<Job> {
        let (job, ended) = self.board().stop(id, ending)?;
        if let Some(job) = ended {
            self.telemetry.record(&Fact::JobEnded { job: &job });
        }
        self.changed.notify_one();
        Some(job)
    }

    /// Writes what is to be written whenever something changes, and progress each second.
    async fn record(&self) {
        while !self.ended.is_cancelled() {
            self.write().await;
            let is_at_rest = {
                let board = self.board();
                board.open().is_empty() && board.unsaved().is_empty()
            };
            tokio::select! {
                () = self.ended.cancelled() => {}
                () = self.changed.notified() => {}
                () = sleep(EACH), if !is_at_rest => {}
            }
        }
    }

    /// Writes what is to be written, and learns what others want of this worker's jobs. What fails is tried again.
    async fn write(&self) {
        let Some(records) = &self.records else { return };
        let (jobs, is_at_work) = {
            let board = self.board();
            (board.unsaved(), board.is_at_work())
        };
        if !jobs.is_empty() {
            let Ok(lost) = records.save(&jobs).await else { return };
            let mut board = self.board();
            board.saved(jobs);
            drop(board);
            for id in lost {
                self.stop(&id, Ending::Lost);
                self.board().drop_over(&id);
            }
        }
        if is_at_work {
            for id in records.wishes().await.unwrap_or_default() {
                self.stop(&id, Ending::Cancelled);
            }
        }
    }
}

/// Ends a job that has not ended.
struct OnDrop<'a>(&'a Shared, &'a JobId);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended(self.1, JobState::Interrupted, None);
    }
}

/// Nobody looks.
struct Unwatched;

impl Watch for Unwatched {}
