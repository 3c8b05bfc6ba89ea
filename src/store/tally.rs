//! What is counted of the entries, by minute and endpoint: how endpoints have been, and where in the log it is worth to look.
//!
//! A row holds the counts of one worker and one minute as they are by then, so it may be written again and again. The minute is that of the
//! entries' ids, which never go back for one worker, whatever its clock does: a minute that is over gets no more entries.
//!
//! At most [`ROWS`] rows are written with each batch; the others wait for their turn. Until then the row of the minute without integrator and
//! endpoint says how many entries the rows that are written do not count (`left_out`), in the transaction that writes those entries. So whoever
//! looks for entries by the tally misses none, not after a crash either.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;

use super::entry::{Entry, What};
use super::insert::{Row, Table, storable};
use super::value::Value;
use crate::domain::names::{EndpointId, IntegratorKey};

/// Milliseconds of a minute.
pub(super) const MINUTE: i64 = 60_000;

/// Most rows that are written with one batch: what they cost is a small share of a full batch, and two batches a second bring 15,000 rows a minute.
pub(super) const ROWS: usize = 128;

/// Most rows that are held: some 300 bytes each. Entries for which there is no row are left out of the counts, and said to be.
const HELD: usize = 16_384;

/// What entries are counted by, as columns are called.
pub(super) const KINDS: [&str; 7] = ["delivered", "retried", "dead", "waits", "skipped", "given_up", "rejected"];

/// What attempts end with, in the words of [`crate::domain::reply::Reply::class`]; `tls` are all faults of TLS, `other` is the rest.
pub(super) const CLASSES: [&str; 10] = ["2xx", "3xx", "4xx", "5xx", "timeout", "dns", "connect", "tls", "disconnected", "other"];

/// The longest that attempts of each column took, in milliseconds; one more column has those that took longer.
pub(super) const TOOK: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// The columns of the counts, in the order in which they are written.
pub(super) fn columns() -> impl Iterator<Item = String> {
    let kinds = KINDS.into_iter().map(str::to_owned);
    let classes = CLASSES.into_iter().map(|class| format!("class_{class}"));
    kinds.chain(classes).chain(took_columns())
}

/// The columns of the durations, the shortest first.
pub(super) fn took_columns() -> impl Iterator<Item = String> {
    TOOK.into_iter().map(|most| format!("took_{most}")).chain(["took_more".to_owned()])
}

/// The table. A row that is there is replaced.
pub(super) fn table() -> Table {
    let counts: Vec<String> = columns().chain(["left_out", "succeeded_at", "failure"].map(str::to_owned)).collect();
    let set: Vec<String> = counts.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    Table {
        into: format!("tally (minute, integrator, endpoint, worker, {})", counts.join(", ")).into(),
        columns: 4 + counts.len(),
        conflict: format!("ON CONFLICT (minute, integrator, endpoint, worker) DO UPDATE SET {}", set.join(", ")).into(),
    }
}

/// A row's values in the order of [`table`].
pub(super) fn values(row: &DueRow) -> impl Iterator<Item = Value<'_>> {
    let Key { minute, integrator, endpoint, worker } = &row.key;
    let key = [
        Value::int(*minute),
        text(integrator.as_ref().map(IntegratorKey::as_str)),
        text(endpoint.as_ref().map(EndpointId::as_str)),
        Value::int(*worker),
    ];
    let counts = row.counts.kinds.iter().chain(&row.counts.classes).chain(&row.counts.took);
    let rest = [Value::int(row.left_out.into()), Value::Int(row.counts.succeeded_at), Value::maybe(row.counts.failure.as_deref())];
    key.into_iter().chain(counts.map(|count| Value::int(i64::from(*count)))).chain(rest)
}

fn text(name: Option<&str>) -> Value<'_> {
    Value::Text(Some(name.map_or(Cow::Borrowed(""), storable)))
}

/// The place in [`CLASSES`] of what an attempt ended with.
fn class_index(class: &str) -> usize {
    let class = if class.starts_with("tls") { "tls" } else { class };
    CLASSES.iter().position(|known| *known == class).unwrap_or(CLASSES.len() - 1)
}

/// Whose counts a row holds. Without integrator and endpoint: what is about neither, and what other rows leave out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    minute: i64,
    integrator: Option<IntegratorKey>,
    endpoint: Option<EndpointId>,
    worker: i64,
}

impl Key {
    const fn is_for_the_rest(&self) -> bool {
        self.integrator.is_none() && self.endpoint.is_none()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    kinds: [u32; KINDS.len()],
    classes: [u32; CLASSES.len()],
    took: [u32; TOOK.len() + 1],
    succeeded_at: Option<i64>,
    /// Time, status and error of the last failure in one text ([`failure`]).
    failure: Option<String>,
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        let kind = match (entry.what, entry.verdict) {
            (What::Attempt, Some("delivered")) => 0,
            (What::Attempt, Some("dead")) => 2,
            (What::Attempt, _) => 1,
            (What::Waits, _) => 3,
            (What::Skipped, _) => 4,
            (What::Dead, _) => 5,
            (What::Rejected, _) => 6,
        };
        add_one(&mut self.kinds, kind);
        if entry.what != What::Attempt {
            return;
        }
        add_one(&mut self.classes, class_index(entry.class.unwrap_or_default()));
        let took = entry.took.unwrap_or_default().as_millis();
        add_one(&mut self.took, TOOK.iter().position(|most| took <= u128::from(*most)).unwrap_or(TOOK.len()));
        let at = entry.at.millis();
        if kind == 0 {
            self.succeeded_at = self.succeeded_at.max(Some(at));
        } else {
            let failure = failure(at, entry.status, entry.error.as_deref().unwrap_or_default());
            // Of one minute, texts are in the order of their times.
            if self.failure.as_ref().is_none_or(|last| *last < failure) {
                self.failure = Some(failure);
            }
        }
    }
}

fn add_one(counts: &mut [u32], index: usize) {
    if let Some(count) = counts.get_mut(index) {
        *count = count.saturating_add(1);
    }
}

/// A failure as it is stored: the later one is the greater text, so the greatest of many rows is the last failure, to any database.
pub(super) fn failure(at: i64, status: Option<u16>, error: &str) -> String {
    format!("{:013} {} {}", at.max(0), status.unwrap_or_default(), storable(error))
}

/// What [`failure`] stored: when, with which status, why.
pub(super) fn read_failure(text: &str) -> Option<(i64, Option<i64>, String)> {
    let (at, rest) = text.split_once(' ')?;
    let (status, error) = rest.split_once(' ')?;
    let status = status.parse().ok()?;
    Some((at.parse().ok()?, (status != 0).then_some(status), error.to_owned()))
}

struct Held {
    counts: Counts,
    /// Entries that were counted since it was written.
    unwritten: u32,
}

/// What the rows of one minute, as they are written, do not count.
#[derive(Default)]
struct Minute {
    /// Entries of rows that wait for their turn.
    unwritten: u32,
    /// Entries that no row was there for.
    lost: u32,
    /// What is written of both.
    marked: u32,
}

impl Minute {
    const fn is_written(&self) -> bool {
        self.unwritten == 0 && self.marked == self.lost
    }
}

/// The counts of one worker that may still change, or are not written yet.
#[derive(Default)]
pub(super) struct Tally {
    worker: i64,
    /// The minute that entries are counted in.
    newest: i64,
    rows: HashMap<Key, Held>,
    /// The keys of rows that are not written as they are, each once, in the order in which they became so.
    due: VecDeque<Key>,
    minutes: BTreeMap<(i64, i64), Minute>,
}

/// A row as it is to be written.
pub(super) struct DueRow {
    pub key: Key,
    counts: Counts,
    left_out: u32,
}

/// Rows to be written in one transaction.
pub(super) struct Due {
    pub rows: Vec<DueRow>,
    /// How many of those that are due they are.
    taken: usize,
    /// What the minutes are said to leave out then.
    marks: Vec<((i64, i64), u32)>,
}

impl Tally {
    /// From now on entries are those of this worker. What is held of another one is still written.
    pub(super) const fn begin(&mut self, worker: i64) {
        self.worker = worker;
        self.newest = 0;
    }

    /// Counts entries that were not counted before.
    pub(super) fn count(&mut self, rows: &mut [Row]) {
        for row in rows.iter_mut().filter(|row| !row.is_counted) {
            row.is_counted = true;
            self.add(row.id, &row.entry);
        }
    }

    fn add(&mut self, id: i64, entry: &Entry) {
        let minute = (id >> 21).div_euclid(MINUTE);
        if minute > self.newest {
            self.newest = minute;
            self.forget();
        }
        let of_minute = self.minutes.entry((self.worker, minute)).or_default();
        let key = Key { minute, integrator: entry.integrator.clone(), endpoint: entry.endpoint.clone(), worker: self.worker };
        if let Some(held) = self.rows.get_mut(&key) {
            if held.unwritten == 0 {
                self.due.push_back(key);
            }
            held.unwritten += 1;
            held.counts.add(entry);
        } else if self.rows.len() < HELD || key.is_for_the_rest() {
            let mut held = Held { counts: Counts::default(), unwritten: 1 };
            held.counts.add(entry);
            self.due.push_back(key.clone());
            self.rows.insert(key, held);
        } else {
            of_minute.lost = of_minute.lost.saturating_add(1);
            return;
        }
        of_minute.unwritten += 1;
    }

    /// Lets go of what is written and over.
    fn forget(&mut self) {
        let (newest, worker) = (self.newest, self.worker);
        let is_over = |of: i64, minute: i64| of != worker || minute < newest;
        self.minutes.retain(|(of, minute), state| !(is_over(*of, *minute) && state.is_written()));
        let minutes = &self.minutes;
        self.rows.retain(|key, held| {
            let is_needed = key.is_for_the_rest() && minutes.contains_key(&(key.worker, key.minute));
            !is_over(key.worker, key.minute) || held.unwritten > 0 || is_needed
        });
    }

    /// Whether there is something to write.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty() || self.minutes.values().any(|minute| !minute.is_written())
    }

    /// Rows that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.rows.len()
    }

    /// Up to `most` of the rows that are due, the longest first, and those that say what the others leave out.
    pub(super) fn due(&self, most: usize) -> Due {
        let mut left: BTreeMap<(i64, i64), u32> = self.minutes.iter().map(|(key, minute)| (*key, minute.lost + minute.unwritten)).collect();
        let mut rows: Vec<DueRow> = Vec::new();
        for key in self.due.iter().take(most) {
            if let Some(held) = self.rows.get(key) {
                if let Some(left) = left.get_mut(&(key.worker, key.minute)) {
                    *left = left.saturating_sub(held.unwritten);
                }
                rows.push(DueRow { key: key.clone(), counts: held.counts.clone(), left_out: 0 });
            }
        }
        let marks: Vec<_> = left.into_iter().collect();
        for (of, left) in &marks {
            let (worker, minute) = *of;
            let key = Key { minute, integrator: None, endpoint: None, worker };
            if let Some(row) = rows.iter_mut().find(|row| row.key == key) {
                row.left_out = *left;
            } else if self.minutes.get(of).is_some_and(|minute| minute.marked != *left) {
                let counts = self.rows.get(&key).map(|held| held.counts.clone()).unwrap_or_default();
                rows.push(DueRow { key, counts, left_out: *left });
            }
        }
        rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Due { rows, taken: self.due.len().min(most), marks }
    }

    /// These are written, for sure.
    pub(super) fn written(&mut self, due: &Due) {
        for key in self.due.drain(..due.taken) {
            let Some(held) = self.rows.get_mut(&key) else { continue };
            if let Some(minute) = self.minutes.get_mut(&(key.worker, key.minute)) {
                minute.unwritten = minute.unwritten.saturating_sub(held.unwritten);
            }
            held.unwritten = 0;
        }
        for (of, left) in &due.marks {
            if let Some(minute) = self.minutes.get_mut(of) {
                minute.marked = *left;
            }
        }
    }
}

/// The counts' columns, summed up, as a list of what is selected.
pub(super) fn sums() -> String {
    let mut sql = String::new();
    for column in columns().chain(["left_out".to_owned()]) {
        let _ = write!(sql, "CAST(COALESCE(SUM(t.{column}), 0) AS BIGINT) AS {column}, ");
    }
    sql.push_str("MAX(t.succeeded_at) AS succeeded_at, MAX(t.failure) AS failure");
    sql
}
