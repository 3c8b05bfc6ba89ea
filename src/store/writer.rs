//! Takes what waits in the journal to the database, on a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AnyConnection, Connection as _};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::entry::Kept;
use super::insert::{Insert, Row};
use super::tally::Tally;
use super::trim::trim;
use super::{Journal, StoreError, connect, schema, within};
use crate::clock;
use crate::config::{Database, DeliveryLog};
use crate::domain::time::Timestamp;
use crate::side_thread::{SideRuntime, SideThread};
use crate::telemetry::{Fact, Telemetry};

/// How long entries gather before they are written: what is written together shares a transaction, and pages of the index.
const GATHER: Duration = Duration::from_millis(500);

/// Most entries of one transaction, a tenth of a second, so that each is short for who else writes to the same file.
const BATCH: usize = 8192;

/// The pause after a failure: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long nothing is done while there is nothing to write.
const IDLE: Duration = Duration::from_secs(60);

/// How often it is looked for entries that are too old, where there were none the time before.
const TRIM_EACH: Duration = Duration::from_secs(5);

/// A wall clock that has gained more than this on the other one is not believed when it calls entries old.
const CREDIBLE: Duration = Duration::from_secs(3600);

/// A clock that is behind the last entry by more than this was set back.
const SET_BACK_MILLIS: i64 = 60_000;

/// How long a stop waits for what is not written yet.
pub const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The least place in the log of an entry at this time: 42 bits of milliseconds since the Unix epoch (good until 2109), 11 of the worker, 10 that count.
pub(super) const fn first_id(millis: i64) -> i64 {
    let most = (1 << 42) - 1;
    let millis = if millis < 0 {
        0
    } else if millis > most {
        most
    } else {
        millis
    };
    millis << 21
}

/// The writer's end of a delivery log.
#[derive(Debug)]
pub struct Writer(SideThread);

impl Writer {
    /// Starts a writer, and the journal that it empties; `None` when the log is off. Whether there is a database, it finds out by itself.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(config: &DeliveryLog, worker: String, telemetry: &Telemetry) -> std::io::Result<Option<(Arc<Journal>, Self)>> {
        let Some(database) = config.database.clone() else { return Ok(None) };
        let kept = Kept { keys: config.search_keys.clone(), payloads: config.stores_payloads };
        let journal = Arc::new(Journal::new(kept, config.memory, telemetry.clone()));
        let stop = CancellationToken::new();
        let writing = Writing {
            journal: Arc::clone(&journal),
            config: config.clone(),
            database,
            worker,
            telemetry: telemetry.clone(),
            stop: stop.clone(),
            rows: Vec::new(),
            tally: Tally::default(),
            dropped: 0,
            written: 0,
            ids: Ids::default(),
            started: (Instant::now(), clock::now()),
            trim_after: Instant::now(),
            has_old: true,
        };
        let thread = SideRuntime::new()?.start("delivery-log", stop, move || writing.run())?;
        Ok(Some((journal, Self(thread))))
    }

    /// Writes what waits and ends; what the database does not take within [`STOP_LIMIT`] is lost.
    pub async fn stop(self) {
        self.0.stop(STOP_LIMIT).await;
    }
}

struct Writing {
    journal: Arc<Journal>,
    config: DeliveryLog,
    database: Database,
    worker: String,
    telemetry: Telemetry,
    stop: CancellationToken,
    /// Taken from the journal and not written yet.
    rows: Vec<Row>,
    tally: Tally,
    /// Entries that were left out and not told yet.
    dropped: u64,
    /// Entries written so far.
    written: u64,
    ids: Ids,
    /// When this began, by both clocks.
    started: (Instant, Timestamp),
    /// Old entries are looked for from then on, or at once where there were more of them.
    trim_after: Instant,
    has_old: bool,
}

/// A connection for what is not written with a batch, and what writes batches.
struct Link {
    connection: AnyConnection,
    insert: Insert,
}

impl Writing {
    /// Ends when it is told to stop and everything is written, or cannot be.
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            let before = self.written;
            let error = match self.open().await {
                Ok(mut link) => {
                    // Who is told to stop before that has nothing to be ready for, and `stopped` is the last line of the log.
                    if !self.stop.is_cancelled() {
                        self.telemetry.record(&Fact::DeliveryLogReady { database: &self.database.to_string() });
                    }
                    match self.keep_up(&mut link).await {
                        Ok(()) => {
                            let _ = within(link.connection.close()).await;
                            return;
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            // A database that can be opened and not written is no better than none.
            pause = if self.written > before { PAUSE.0 } else { pause };
            let error = format!("{}: {error}", self.database);
            self.telemetry.record(&Fact::DeliveryLogFailed { error: &error, retry_in: pause });
            if self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return self.end().await;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One more try for what waits, should the failure have been of that moment; what is left then is lost, and counted.
    async fn end(mut self) {
        if let Ok(mut link) = self.open().await {
            let _ = self.write(&mut link).await;
        }
        let taken = self.journal.take();
        let lost = (self.rows.len() + taken.entries.len()) as u64;
        if lost > 0 {
            self.telemetry.delivery_log_dropped(lost);
            self.telemetry.record(&Fact::DeliveryLogWritten { entries: 0, dropped: self.dropped + taken.dropped + lost });
        }
    }

    async fn open(&mut self) -> Result<Link, StoreError> {
        let mut connection = connect(&self.database, true).await?;
        schema::migrate(&self.database, &mut connection).await?;
        if self.ids.worker == 0 {
            self.ids.worker = register(&mut connection, &self.worker).await?;
            self.tally.begin(self.ids.worker);
        }
        let insert = Insert::open(self.ids.worker, &self.config)?;
        Ok(Link { connection, insert })
    }

    /// Writes whatever comes until it is told to stop. Room is made first: where the disk is full, nothing could be written before.
    async fn keep_up(&mut self, link: &mut Link) -> Result<(), StoreError> {
        loop {
            let has_more = self.remove_old(link).await;
            self.write(link).await?;
            if self.stop.is_cancelled() {
                return self.write(link).await;
            }
            let rest = match (has_more, self.tally.is_due()) {
                (true, _) => Duration::ZERO,
                (false, true) => GATHER,
                (false, false) => IDLE,
            };
            let stop = self.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.journal.arrived() => {
                    let _ = stop.run_until_cancelled(sleep(GATHER)).await;
                }
                () = sleep(rest) => {}
            }
        }
    }

    /// Writes what waits by now.
    async fn write(&mut self, link: &mut Link) -> Result<(), StoreError> {
        let taken = self.journal.take();
        let is_idle = taken.entries.is_empty() && self.rows.is_empty();
        self.dropped += taken.dropped;
        if taken.entries.first().is_some_and(|entry| self.ids.are_ahead_of(entry.at.millis())) {
            // The clock has been set back. Places of that time may have been given already; those of another worker have not.
            let worker = register(&mut link.connection, &self.worker).await?;
            self.ids = Ids { worker, ..Ids::default() };
            // What waits still has places of the time before.
            self.tally.count(&mut self.rows);
            self.tally.begin(worker);
            link.insert.set_worker(worker);
        }
        let ids = &mut self.ids;
        self.rows.extend(taken.entries.into_iter().map(|entry| Row { id: ids.next(entry.at.millis()), entry, is_counted: false }));
        while !self.rows.is_empty() {
            let count = self.rows.len().min(BATCH);
            self.tally.count(&mut self.rows[..count]);
            let refused = insert(link, &self.rows[..count], &mut self.tally).await?;
            let bytes = self.rows.drain(..count).map(|row| row.entry.weight()).sum();
            self.journal.released(count, bytes);
            self.telemetry.delivery_log_dropped(refused);
            let entries = count as u64 - refused;
            self.written += entries;
            self.telemetry.record(&Fact::DeliveryLogWritten { entries, dropped: std::mem::take(&mut self.dropped) + refused });
        }
        // Nothing came, or it is the end: time for what is left of the tally.
        while self.tally.is_due() && (is_idle || self.stop.is_cancelled()) {
            link.insert.all(&mut link.connection, &[], &mut self.tally).await?;
        }
        Ok(())
    }

    /// Makes way for new entries, for no longer than entries gather; whether there is more to remove. That it cannot be done is told, and stops nothing:
    /// it is tried again when it is time.
    async fn remove_old(&mut self, link: &mut Link) -> bool {
        let start = Instant::now();
        let now = clock::now();
        // A clock that jumps would remove what is young.
        let passed = start.saturating_duration_since(self.started.0);
        let by_clock = now.since(self.started.1);
        if by_clock > passed + CREDIBLE || (start < self.trim_after && !self.has_old) {
            return false;
        }
        self.trim_after = start + TRIM_EACH;
        loop {
            match trim(&self.database, &mut link.connection, &self.config, now).await {
                Ok(trimmed) => {
                    self.has_old = trimmed.has_more;
                    if trimmed.entries > 0 {
                        self.telemetry.record(&Fact::DeliveryLogTrimmed { entries: trimmed.entries });
                    }
                    if !trimmed.has_more || start.elapsed() > GATHER {
                        return trimmed.has_more;
                    }
                }
                Err(error) => {
                    self.has_old = false;
                    self.telemetry.record(&Fact::DeliveryLogNotTrimmed { error: &format!("{}: {error}", self.database) });
                    return false;
                }
            }
        }
    }
}

/// Writes rows; of those that the database refuses for what they hold it finds the guilty ones, and says how many it left out.
async fn insert(link: &mut Link, rows: &[Row], tally: &mut Tally) -> Result<u64, StoreError> {
    match link.insert.all(&mut link.connection, rows, tally).await {
        Ok(()) => Ok(0),
        Err(StoreError::Refused(_)) if rows.len() == 1 => Ok(1),
        Err(StoreError::Refused(_)) => {
            let (first, second) = rows.split_at(rows.len() / 2);
            Ok(Box::pin(insert(link, first, tally)).await? + Box::pin(insert(link, second, tally)).await?)
        }
        Err(error) => Err(error),
    }
}

/// Tells the log of this worker, and gets a number for it that no other one has.
async fn register(connection: &mut AnyConnection, name: &str) -> Result<i64, StoreError> {
    loop {
        let last = sqlx::query_scalar("SELECT COALESCE(MAX(number), 0) FROM worker");
        let last: i64 = within(last.fetch_one(&mut *connection)).await?;
        let mine = sqlx::query("INSERT INTO worker (number, name, version, started_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
            .bind(last + 1)
            .bind(name)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(clock::now().millis());
        if within(mine.execute(&mut *connection)).await?.rows_affected() == 1 {
            return Ok(last + 1);
        }
    }
}

/// Gives each entry its place: in the order in which they are written, unique among the workers of a log (of 2,048 in a row).
#[derive(Default)]
struct Ids {
    worker: i64,
    millis: i64,
    count: i64,
}

impl Ids {
    fn are_ahead_of(&self, millis: i64) -> bool {
        millis < self.millis - SET_BACK_MILLIS
    }

    fn next(&mut self, millis: i64) -> i64 {
        if millis > self.millis {
            (self.millis, self.count) = (millis, 0);
        } else if self.count == (1 << 10) - 1 {
            (self.millis, self.count) = (self.millis + 1, 0);
        } else {
            self.count += 1;
        }
        first_id(self.millis) | (self.worker & 0x7ff) << 10 | self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{file, numbers, row};

    #[tokio::test]
    async fn of_a_batch_only_what_is_refused_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (mut connection, insert) = file(&folder).await;
        let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON entry WHEN NEW.endpoint = 'e3' BEGIN SELECT RAISE(ABORT, 'no'); END";
        sqlx::raw_sql(trigger).execute(&mut connection).await.unwrap();
        let rows: Vec<Row> = (0..8).map(|number| row(number, i64::try_from(number).unwrap(), 0)).collect();
        let mut link = Link { connection, insert };
        let left_out = super::insert(&mut link, &rows, &mut Tally::default()).await.unwrap();
        let entries = numbers(&mut link.connection, "SELECT COUNT(*) FROM entry").await;
        let found_by = numbers(&mut link.connection, "SELECT COUNT(DISTINCT entry) FROM finder").await;
        assert_eq!((left_out, entries, found_by), (1, vec![7], vec![7]));
    }

    #[test]
    fn places_rise_whatever_the_clock_does_and_differ_among_workers() {
        let (mut one, mut other) = (Ids { worker: 1, ..Ids::default() }, Ids { worker: 2, ..Ids::default() });
        let times = [5, 5, 4, 1_764_000_000_000, 9].into_iter().chain(std::iter::repeat_n(1_764_000_000_000, 3000));
        let (mut last, mut seen) = (-1, std::collections::HashSet::new());
        for millis in times {
            let id = one.next(millis);
            assert!(id > last);
            last = id;
            assert!(seen.insert(id) && seen.insert(other.next(millis)));
        }
        assert_eq!(one.next(1_764_000_000_000) >> 21, 1_764_000_000_002, "3,000 of one millisecond take three");
        assert!(first_id(i64::MAX) > 0 && first_id(i64::MIN) == 0);
    }
}
