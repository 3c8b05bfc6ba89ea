//! What became of jobs.

use prometheus::{IntCounter, IntCounterVec};

use super::Maker;
use crate::letters::{JobKind, JobState};
use crate::telemetry::facts::Fact;

/// What is told about jobs.
pub(in crate::telemetry) struct Jobs {
    ended: IntCounterVec,
    not_recorded: IntCounter,
}

impl Jobs {
    pub(super) fn new(maker: &Maker) -> Self {
        let ended = maker.counters("callbackd_jobs_ended_total", "Jobs that ended, by what they did and how", &["kind", "state"]);
        let failed = JobState::Failed { why: String::new() };
        for kind in [JobKind::Replay, JobKind::Discard] {
            for state in [&JobState::Done, &JobState::Cancelled, &failed, &JobState::Interrupted] {
                ended.with_label_values(&[kind.as_str(), state.as_str()]);
            }
        }
        let not_recorded = maker.counter(
            "callbackd_jobs_not_recorded_total",
            "Times that jobs could not be written to the database any more; tried again until they can",
        );
        Self { ended, not_recorded }
    }

    pub(super) fn count(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::JobEnded { job } => self.ended.with_label_values(&[job.spec.kind.as_str(), job.state.as_str()]).inc(),
            Fact::JobsNotRecorded { .. } => self.not_recorded.inc(),
            _ => {}
        }
    }
}
