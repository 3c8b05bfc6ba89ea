//! Acknowledgements in bursts, as the product gives them: one `multiple` for the contiguous beginning, one for each other.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};

const COLLECT: Duration = Duration::from_millis(5);
const BURST: usize = 64;

/// Writes the acknowledgements of all tags that come, until no more can come.
///
/// # Errors
/// What the broker or the connection says.
pub(super) async fn write(channel: Channel, mut tags: UnboundedReceiver<u64>) -> lapin::Result<()> {
    let mut settled = Settled::default();
    while let Some(first) = tags.recv().await {
        let mut burst = vec![first];
        let end = Instant::now() + COLLECT;
        while burst.len() < BURST {
            let Ok(Some(tag)) = timeout_at(end, tags.recv()).await else { break };
            burst.push(tag);
        }
        let (multiple, singles) = settled.plan(burst);
        let acks = multiple.iter().map(|tag| (*tag, true)).chain(singles.iter().map(|tag| (*tag, false)));
        let acks = acks.map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple }));
        for ack in join_all(acks).await {
            ack?;
        }
    }
    Ok(())
}

/// Settled tags as intervals that do not touch, first to last.
#[derive(Debug, Default)]
struct Settled(BTreeMap<u64, u64>);

impl Settled {
    fn plan(&mut self, mut tags: Vec<u64>) -> (Option<u64>, Vec<u64>) {
        tags.sort_unstable();
        for tag in &tags {
            self.insert(*tag);
        }
        let contiguous = self.0.first_key_value().filter(|(first, _)| **first == 1).map_or(0, |(_, last)| *last);
        let singles = tags.split_off(tags.partition_point(|tag| *tag <= contiguous));
        (tags.last().copied(), singles)
    }

    fn insert(&mut self, tag: u64) {
        let before = self.0.range(..tag).next_back().map(|(first, last)| (*first, *last)).filter(|(_, last)| last + 1 == tag);
        let last = self.0.remove(&(tag + 1)).unwrap_or(tag);
        self.0.insert(before.map_or(tag, |(first, _)| first), last);
    }
}
