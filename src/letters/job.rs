//! A job: a replay or a discard that somebody has asked for and that goes on without them.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::filter::{BadFilter, Filter, Queue};
use super::rfc3339;
use crate::domain::policy::Rate;
use crate::domain::time::Timestamp;

/// Letters a second of a replay that says nothing else: endpoints that have been away are not overrun, and 100,000 take less than an hour.
pub const DEFAULT_RATE: u32 = 50;
/// Most letters a second: what the broker takes.
pub const FASTEST: u32 = 5000;

/// What is done with the letters that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Back to where they are delivered from, with the same event ids.
    Replay,
    /// Away for good.
    Discard,
}

impl JobKind {
    /// Its name in the API and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }
}

/// What is asked for. What comes to the queue later is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// What is done.
    pub kind: JobKind,
    /// With letters of this queue.
    pub queue: Queue,
    /// With these of them.
    #[serde(default)]
    pub filter: Filter,
    /// Letters a second, at most. A replay that says nothing is made at 50, a discard as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 5000)]
    pub rate: Option<u32>,
    /// Must be true for a discard without a filter, which is of everything that is in the queue.
    #[serde(default)]
    pub all: bool,
}

impl JobSpec {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Refused::Spec`] says what is wrong.
    pub fn check(&self) -> Result<(), Refused> {
        self.filter.check(self.queue)?;
        if self.rate.is_some_and(|rate| !(1..=FASTEST).contains(&rate)) {
            return Err(Refused::Spec(format!("a rate is 1 to {FASTEST} a second")));
        }
        if self.kind == JobKind::Discard && self.filter.is_everything() && !self.all {
            return Err(Refused::Spec("which? Give a filter such as `integrator`, or `all` for everything in the queue".to_owned()));
        }
        Ok(())
    }

    /// How fast it may go.
    pub(crate) fn pace(&self) -> Option<Rate> {
        let default = (self.kind == JobKind::Replay).then_some(DEFAULT_RATE);
        let requests = self.rate.or(default).and_then(NonZeroU32::new)?;
        Some(Rate { requests, per: Duration::from_secs(1) })
    }

    /// What the audit line says of it.
    pub(crate) fn told(&self) -> String {
        let mut told = format!("{} {}", self.kind.as_str(), self.queue.as_str());
        let Filter { integrator, endpoint, reason, event, since, until, limit, asked_at: _ } = &self.filter;
        if let Some(limit) = limit {
            told += &format!(" limit={limit}");
        }
        for (name, time) in [("since", since), ("until", until)] {
            if let Some(time) = time {
                told += &format!(" {name}={time}");
            }
        }
        // Last and in quotes: they are whatever somebody wrote.
        for (name, text) in [("reason", reason), ("integrator", integrator), ("endpoint", endpoint), ("event", event)] {
            if let Some(text) = text {
                told += &format!(" {name}={text:?}");
            }
        }
        told
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// Another job works on the queue.
    Queued,
    /// It works.
    Running,
    /// Everything that fits has been looked at, and nobody else had letters of the queue in hand.
    Done,
    /// Somebody has ended it. It can be resumed.
    Cancelled,
    /// It could not go on, or somebody else had letters of its queue in hand, so that not all were seen. It can be resumed.
    Failed {
        /// Why.
        why: String,
    },
    /// Its worker ended or has not been heard of for 30 s. It can be resumed.
    Interrupted,
}

impl JobState {
    /// Its name in the API and in logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed { .. } => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether it will go on by itself.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }

    /// Whether it can be resumed.
    #[must_use]
    pub const fn is_resumable(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Failed { .. } | Self::Interrupted)
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Letters that fit, as far as the queue has been looked at: those that are done among them.
    pub fitting: u64,
    /// Replayed or discarded, in all runs of the job.
    pub done: u64,
    /// Stay where they are because they cannot be replayed.
    pub failed: u64,
}

/// A job as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What was asked for.
    pub spec: JobSpec,
    /// Who asked: the name of a token.
    pub asked_by: String,
    /// When. RFC 3339.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// Where it stands.
    #[serde(flatten)]
    pub state: JobState,
    /// How far it is.
    pub progress: Progress,
    /// What else is to be known, such as a message that cannot be read, or why a letter stays.
    pub note: Option<String>,
    /// The worker that runs it, or was the last to do so.
    pub worker: String,
    /// Counted from 1; each resume is one more.
    pub run: u32,
    /// When this run began to work. RFC 3339.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it ended. RFC 3339.
    #[serde(with = "rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
}

/// What a job would do, found out without doing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LetterCount)]
pub struct Count {
    /// Messages in the queue that could be looked at.
    pub seen: u64,
    /// Those that fit.
    pub fitting: u64,
    /// A message that cannot be read hides others: which, and what to do.
    pub note: Option<String>,
}

/// Why a job is not started, cancelled or resumed, or letters are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What is asked for makes no sense.
    #[error("{0}")]
    Spec(String),
    /// Enough jobs wait for others.
    #[error("{0} jobs wait already")]
    Full(usize),
    /// There is no such job, or it has been forgotten.
    #[error("there is no such job")]
    Unknown,
    /// It is in another state.
    #[error("the job is {0}")]
    State(&'static str),
    /// A job or somebody else works on the queue, and has not made room in time.
    #[error("somebody works on the queue, try again")]
    Busy,
    /// The process ends.
    #[error("the worker stops")]
    Stopping,
    /// The broker cannot be worked with.
    #[error("{0}")]
    Broker(String),
    /// The database that may know the job does not answer.
    #[error("the database of the delivery log: {0}")]
    Database(String),
}

impl From<BadFilter> for Refused {
    fn from(bad: BadFilter) -> Self {
        Self::Spec(bad.to_string())
    }
}

/// What a job is known by: the time at which it was asked for and a random part, in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9a-f]{24}$", example = "01939cbb5c7e3d2a90bf14e6")]
pub struct JobId(String);

impl JobId {
    /// One that no other job has: 48 bits of time, 48 of chance.
    pub(crate) fn new(now: Timestamp, dice: u64) -> Self {
        let most = (1 << 48) - 1;
        Self(format!("{:012x}{:012x}", now.millis() & most, dice & most.unsigned_abs()))
    }

    /// Reads one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 24 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).ok_or_else(|| de::Error::custom("no id of a job"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<JobSpec, String> {
        let spec: JobSpec = serde_json::from_str(text).map_err(|error| error.to_string())?;
        spec.check().map(|()| spec).map_err(|refused| refused.to_string())
    }

    #[test]
    fn what_is_asked_for_is_read_strictly() {
        let replay = spec(r#"{"kind":"replay","queue":"dead","filter":{"integrator":"acme"}}"#).unwrap();
        assert_eq!(replay.pace().map(|rate| rate.requests.get()), Some(DEFAULT_RATE));
        assert_eq!(replay.told(), "replay dead integrator=\"acme\"");
        assert_eq!(spec(r#"{"kind":"discard","queue":"rejected","all":true}"#).unwrap().pace(), None);
        for wrong in [
            r#"{"kind":"discard","queue":"dead"}"#,
            r#"{"kind":"discard","queue":"dead","filter":{"limit":5}}"#,
            r#"{"kind":"replay","queue":"dead","rate":0}"#,
            r#"{"kind":"replay","queue":"dead","rate":5001}"#,
            r#"{"kind":"replay","queue":"dead","filter":{"reason":"undecodable"}}"#,
            r#"{"kind":"replay","queue":"work"}"#,
            r#"{"kind":"replay","queue":"dead","filters":{}}"#,
            r#"{"kind":"replay"}"#,
        ] {
            assert!(spec(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_job_is_told_flat_and_read_again() {
        let (at, id) = (Timestamp::from_millis(1_756_881_488_042), JobId::new(Timestamp::from_millis(1), 2));
        let job = Job {
            id: id.clone(),
            spec: spec(r#"{"kind":"replay","queue":"dead"}"#).unwrap(),
            asked_by: "ops".to_owned(),
            asked_at: at,
            state: JobState::Failed { why: "no".to_owned() },
            progress: Progress::default(),
            note: None,
            worker: "w".to_owned(),
            run: 1,
            started_at: None,
            ended_at: Some(at),
        };
        let value = serde_json::to_value(&job).unwrap();
        assert_eq!(
            (&value["state"], &value["why"], &value["asked_at"]),
            (&"failed".into(), &"no".into(), &"2025-09-03T06:38:08.042Z".into())
        );
        assert_eq!(serde_json::from_value::<Job>(value).unwrap(), job);
        assert_eq!(JobId::parse("000000000001000000000002"), Some(id));
        for wrong in ["", "1", "00000000000100000000000G", "0000000000010000000000020"] {
            assert_eq!(JobId::parse(wrong), None, "{wrong}");
        }
    }
}
