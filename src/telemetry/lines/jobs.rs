//! The lines of jobs.

use tracing::{info, warn};

use super::{Fact, TEXT_LIMIT, cut};
use crate::letters::{Job, JobState};

/// Writes the line of such a fact.
pub(super) fn write(fact: &Fact<'_>) {
    match *fact {
        Fact::JobEnded { job } => ended(job),
        Fact::JobsNotRecorded { error } => warn!(target: "callbackd", error = &*cut(error, TEXT_LIMIT), "jobs not recorded"),
        Fact::JobsRecorded => info!(target: "callbackd", "jobs recorded"),
        _ => {}
    }
}

fn ended(job: &Job) {
    let Job { id, spec, state, progress, run, .. } = job;
    let why = match state {
        JobState::Failed { why } => Some(cut(why, TEXT_LIMIT)),
        _ => None,
    };
    // The level of a line is part of what `tracing` knows of it before it runs.
    macro_rules! line {
        ($level:ident) => {
            $level!(
                target: "callbackd",
                job = id.as_str(),
                kind = spec.kind.as_str(),
                queue = spec.queue.as_str(),
                run,
                state = state.as_str(),
                done = progress.done,
                failed = progress.failed,
                error = why.as_deref(),
                "job ended"
            )
        };
    }
    if why.is_some() { line!(warn) } else { line!(info) }
}
