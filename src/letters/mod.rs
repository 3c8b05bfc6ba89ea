//! Letters: what waits in the queues of the dead, the rejected and the unroutable for an operator to look at, replay or discard.
//!
//! A pass takes all messages of a queue and returns what is not settled in its place. A [`Letter`] is what is known of one without its
//! payload; a [`Filter`] says which are meant; [`list()`] shows them, an errand does something with them, and [`Jobs`] run errands for
//! somebody who does not wait for them. The commands and the API stand on this.

mod board;
mod errand;
pub mod filter;
mod gate;
pub mod job;
pub mod jobs;
mod leash;
pub mod letter;
mod look;
mod pass;
mod progress;
pub(crate) mod rfc3339;
mod task;
mod unreadable;
mod window;

pub use filter::{BadFilter, Filter, Queue};
pub use job::{Count, Job, JobId, JobKind, JobSpec, JobState, Progress, Refused};
pub use jobs::Jobs;
pub use letter::Letter;
pub use look::{MOST_LISTED, Page, list};
pub use pass::Broken;
pub use unreadable::Unreadable;

pub(crate) use errand::{Action, Errand, Tally, Watch, run};
pub(crate) use leash::{Leash, Limits};
pub(crate) use look::look;
pub(crate) use pass::Pass;
pub(crate) use unreadable::take_out;
