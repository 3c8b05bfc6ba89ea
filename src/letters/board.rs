//! The jobs that this process knows: which wait, which work, and what became of the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::filter::Queue;
use super::job::{Job, JobId, JobState, Refused};
use super::progress::Meter;
use crate::clock;
use crate::store::jobs::REMEMBERED;

/// Most jobs that wait for others.
pub(crate) const MOST_WAITING: usize = 20;

/// A job that does not change is written again after so long, so that its worker is known to be there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Why a job is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Somebody wants it to.
    Cancelled,
    /// The process ends.
    Stopping,
    /// Another worker has it.
    Lost,
}

/// A job of this process.
#[derive(Debug)]
struct Entry {
    job: Job,
    meter: Arc<Meter>,
    stop: CancellationToken,
    ending: Option<Ending>,
    /// It has a task.
    is_taken: bool,
    /// The place in the line.
    place: u64,
    /// As it was last written, and when.
    saved: Option<(Job, Instant)>,
}

impl Entry {
    fn told(&self) -> Job {
        let note = self.job.note.clone().or_else(|| self.meter.note());
        Job { progress: self.meter.progress(), note, ..self.job.clone() }
    }

    fn end(&mut self, state: JobState) {
        self.job = Job { state, ended_at: Some(clock::now()), ..self.told() };
    }
}

/// What the task of a job works with.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) job: Job,
    pub(crate) meter: Arc<Meter>,
    pub(crate) stop: CancellationToken,
}

/// All jobs of this process.
#[derive(Debug, Default)]
pub(crate) struct Board {
    entries: HashMap<JobId, Entry>,
    places: u64,
    /// Nothing more is begun.
    pub(crate) is_stopping: bool,
}

impl Board {
    /// Whether one more may wait.
    ///
    /// # Errors
    /// Enough do, or the process ends.
    pub(crate) fn has_room(&self) -> Result<(), Refused> {
        let waiting = self.entries.values().filter(|entry| entry.job.state.is_open() && !entry.is_taken).count();
        match (self.is_stopping, waiting < MOST_WAITING) {
            (true, _) => Err(Refused::Stopping),
            (_, true) => Ok(()),
            (_, false) => Err(Refused::Full(waiting)),
        }
    }

    /// Puts a job that is queued in line.
    ///
    /// # Errors
    /// This run of it is here already, or a later one: two have resumed it at one time.
    pub(crate) fn put(&mut self, job: Job) -> Result<(), Refused> {
        if let Some(known) = self.entries.get(&job.id).filter(|known| known.job.state.is_open() || known.job.run >= job.run) {
            return Err(Refused::State(known.job.state.as_str()));
        }
        self.places += 1;
        let meter = Arc::new(Meter::starting_at(job.progress));
        let stop = CancellationToken::new();
        let entry = Entry { meter, stop, ending: None, is_taken: false, place: self.places, saved: None, job };
        self.entries.insert(entry.job.id.clone(), entry);
        self.forget();
        Ok(())
    }

    /// The next job of each queue on which none works; it is its task's from now on.
    pub(crate) fn take(&mut self) -> Vec<Taken> {
        if self.is_stopping {
            return Vec::new();
        }
        let open = || self.entries.values().filter(|entry| entry.job.state.is_open());
        let next = Queue::ALL.into_iter().filter_map(|queue| {
            let mut of_queue: Vec<&Entry> = open().filter(|entry| entry.job.spec.queue == queue).collect();
            of_queue.sort_by_key(|entry| entry.place);
            let first = of_queue.first().map(|entry| entry.job.id.clone());
            first.filter(|_| !of_queue.iter().any(|entry| entry.is_taken))
        });
        let next: Vec<JobId> = next.collect();
        let mut taken = Vec::new();
        for id in next {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.is_taken = true;
                taken.push(Taken { job: entry.job.clone(), meter: Arc::clone(&entry.meter), stop: entry.stop.clone() });
            }
        }
        taken
    }

    /// A job begins to work.
    pub(crate) fn runs(&mut self, id: &JobId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.job.state = JobState::Running;
            entry.job.started_at = Some(clock::now());
        }
    }

    /// A job's task has ended by itself, in `state`, or because it was told to. What is to be told of it.
    pub(crate) fn ended(&mut self, id: &JobId, state: JobState, note: Option<String>) -> Option<Job> {
        let entry = self.entries.get_mut(id).filter(|entry| entry.job.state.is_open())?;
        let state = match (state, entry.ending) {
            (JobState::Done, _) => JobState::Done,
            (_, Some(Ending::Cancelled)) => JobState::Cancelled,
            (_, Some(Ending::Stopping | Ending::Lost)) => JobState::Interrupted,
            (state, None) => state,
        };
        entry.job.note = note;
        entry.end(state);
        let (job, is_lost) = (entry.told(), entry.ending == Some(Ending::Lost));
        if is_lost {
            self.entries.remove(id);
        }
        self.forget();
        Some(job)
    }

    /// Tells an open job to stop; one that waits has stopped with that, and is returned as the second.
    pub(crate) fn stop(&mut self, id: &JobId, ending: Ending) -> Option<(Job, Option<Job>)> {
        let entry = self.entries.get_mut(id).filter(|entry| entry.job.state.is_open())?;
        entry.ending.get_or_insert(ending);
        entry.stop.cancel();
        if entry.is_taken {
            return Some((entry.told(), None));
        }
        let ended = self.ended(id, JobState::Interrupted, None)?;
        Some((ended.clone(), Some(ended)))
    }

    /// One job.
    pub(crate) fn get(&self, id: &JobId) -> Option<Job> {
        self.entries.get(id).map(Entry::told)
    }

    /// All jobs, by their ids.
    pub(crate) fn all(&self) -> BTreeMap<JobId, Job> {
        self.entries.iter().map(|(id, entry)| (id.clone(), entry.told())).collect()
    }

    /// Jobs that are not over.
    pub(crate) fn open(&self) -> Vec<JobId> {
        self.entries.iter().filter(|(_, entry)| entry.job.state.is_open()).map(|(id, _)| id.clone()).collect()
    }

    /// Jobs with a task.
    pub(crate) fn is_at_work(&self) -> bool {
        self.entries.values().any(|entry| entry.is_taken && entry.job.state.is_open())
    }

    /// What is to be written.
    pub(crate) fn unsaved(&self) -> Vec<Job> {
        let unsaved = self.entries.values().filter_map(|entry| {
            let told = entry.told();
            let is_saved =
                entry.saved.as_ref().is_some_and(|(saved, at)| *saved == told && (!told.state.is_open() || at.elapsed() < SIGN_OF_LIFE));
            (!is_saved).then_some(told)
        });
        unsaved.collect()
    }

    /// This has been written.
    pub(crate) fn saved(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            if let Some(entry) = self.entries.get_mut(&job.id).filter(|entry| entry.job.run == job.run) {
                entry.saved = Some((job, Instant::now()));
            }
        }
    }

    /// Drops a job that is over and another worker's by now.
    pub(crate) fn drop_over(&mut self, id: &JobId) {
        if self.entries.get(id).is_some_and(|entry| !entry.job.state.is_open()) {
            self.entries.remove(id);
        }
    }

    /// Keeps only the latest of those that are over.
    fn forget(&mut self) {
        let mut over: Vec<_> = self.entries.values().filter_map(|entry| Some((entry.job.ended_at?, entry.job.id.clone()))).collect();
        over.sort();
        for (_, id) in over.iter().take(over.len().saturating_sub(REMEMBERED)) {
            self.entries.remove(id);
        }
    }
}
