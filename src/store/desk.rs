//! Answers many who ask, through few connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::health::{History, Report, Span};
use super::listing::{Cursor, Filter, Page};
use super::story::Story;
use super::{LIMIT, Reader, StoreError};
use crate::config::DeliveryLog;

/// Most connections, so most questions at one time: to PostgreSQL, for each worker, beside the one that writes.
const CONNECTIONS: usize = 4;

/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// A connection that was not used for so long is not used again: the database may have let go of it, or the file may be another one.
const FRESH: Duration = Duration::from_secs(60);

/// A delivery log that is asked by a server: cheap to clone, opens connections when they are needed, and drops those that fail. Each question is
/// answered, or failed, within 2 s of waiting, what a few operations may take for a connection, and as much as one may take for the answer.
#[derive(Clone)]
pub struct Desk(Arc<Shared>);

struct Shared {
    config: DeliveryLog,
    turns: Arc<Semaphore>,
    free: Mutex<Vec<(Reader, Instant)>>,
}

/// A reader for one question. Whoever does not give it back, drops its connection.
struct Lent {
    reader: Reader,
    turn: OwnedSemaphorePermit,
}

impl Desk {
    /// For the log of a configuration; `None` when it is off. Connects to nothing yet.
    #[must_use]
    pub fn new(config: &DeliveryLog) -> Option<Self> {
        config.database.as_ref()?;
        let turns = Arc::new(Semaphore::new(CONNECTIONS));
        Some(Self(Arc::new(Shared { config: config.clone(), turns, free: Mutex::default() })))
    }

    /// [`Reader::stories`].
    ///
    /// # Errors
    /// [`StoreError::Busy`] when it is nobody's turn within 2 s; otherwise, the log cannot be opened or read.
    pub async fn explain(&self, wanted: &str, integrator: Option<&str>, limit: usize) -> Result<(Vec<Story>, bool), StoreError> {
        let mut lent = self.lend().await?;
        let answer = in_time(lent.reader.stories(wanted, integrator, limit)).await;
        self.take_back(lent, answer)
    }

    /// [`Reader::attempts`].
    ///
    /// # Errors
    /// As [`Self::explain`].
    pub async fn attempts(&self, filter: &Filter, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let mut lent = self.lend().await?;
        let answer = in_time(lent.reader.attempts(filter, cursor, limit)).await;
        self.take_back(lent, answer)
    }

    /// [`Reader::health`].
    ///
    /// # Errors
    /// As [`Self::explain`].
    pub async fn health(&self, span: Span, endpoint: Option<(&str, &str)>) -> Result<Report, StoreError> {
        let mut lent = self.lend().await?;
        let answer = in_time(lent.reader.health(span, endpoint)).await;
        self.take_back(lent, answer)
    }

    /// [`Reader::history`].
    ///
    /// # Errors
    /// As [`Self::explain`].
    pub async fn history(&self, endpoint: Option<(&str, &str)>, span: Span, step_minutes: u32) -> Result<History, StoreError> {
        let mut lent = self.lend().await?;
        let answer = in_time(lent.reader.history(endpoint, span, step_minutes)).await;
        self.take_back(lent, answer)
    }

    async fn lend(&self) -> Result<Lent, StoreError> {
        let waits = timeout(TURN, Arc::clone(&self.0.turns).acquire_owned());
        let turn = waits.await.ok().and_then(Result::ok).ok_or(StoreError::Busy)?;
        while let Some(mut reader) = self.free() {
            if reader.is_alive().await {
                return Ok(Lent { reader, turn });
            }
        }
        let reader = in_time(Reader::open(&self.0.config)).await?;
        Ok(Lent { reader, turn })
    }

    /// The reader that was used last, if that is not too long ago; the others are older still.
    fn free(&self) -> Option<Reader> {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (reader, since) = free.pop()?;
        if since.elapsed() > FRESH {
            free.clear();
            return None;
        }
        Some(reader)
    }

    /// Keeps a reader that has answered. One that has not may have lost its connection, or be still at it.
    fn take_back<T>(&self, lent: Lent, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        let Lent { reader, turn } = lent;
        if answer.is_ok() {
            self.0.free.lock().unwrap_or_else(PoisonError::into_inner).push((reader, Instant::now()));
        }
        drop(turn);
        answer
    }
}

async fn in_time<T>(operation: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(LIMIT, operation).await.map_err(|_| StoreError::Timeout)?
}
