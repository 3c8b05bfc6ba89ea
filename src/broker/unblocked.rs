//! Limits that do not run while the broker has stopped to read what we publish.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Awaits a step; `None` when `limit` has passed, in which only the time counts during which `blocked` was false.
pub(super) async fn while_unblocked<T>(step: impl Future<Output = T>, mut blocked: watch::Receiver<bool>, limit: Duration) -> Option<T> {
    tokio::pin!(step);
    let mut left = limit;
    loop {
        let waits = *blocked.borrow_and_update();
        let since = Instant::now();
        tokio::select! {
            biased;
            value = &mut step => return Some(value),
            Ok(()) = blocked.changed() => {}
            () = tokio::time::sleep(left), if !waits => return None,
        }
        if !waits {
            left = left.saturating_sub(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn only_unblocked_time_counts_against_the_limit() {
        let (block, blocked) = watch::channel(true);
        let waiting = tokio::spawn(while_unblocked(std::future::pending::<()>(), blocked, LIMIT));
        tokio::time::sleep(LIMIT * 3).await;
        assert!(!waiting.is_finished());
        let unblocked = Instant::now();
        block.send_replace(false);
        assert!(waiting.await.unwrap().is_none());
        assert!(unblocked.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn an_answer_during_a_block_is_an_answer() {
        let (_block, blocked) = watch::channel(true);
        let answer = while_unblocked(tokio::time::sleep(LIMIT * 2), blocked, LIMIT).await;
        assert!(answer.is_some());
    }
}
