//! `callbackd dead replay`: back to where it is delivered from. Copied and confirmed first, taken away after: cut off at any
//! moment, a message is in the one queue, the other or both, and its event id is the same in both.

use futures_util::StreamExt as _;
use futures_util::stream;
use indicatif::ProgressBar;
use lapin::BasicProperties;
use lapin::message::Delivery;

use super::browse::{Broken, Grounds, Pass, through};
use super::filter::{Filter, Selection};
use super::letter::Letter;
use super::unreadable::Unreadable;
use crate::broker::Confirmed;
use crate::broker::{Letterhead, Outlet};
use crate::cli::CliError;
use crate::cli::terminal::{Out, line, plain, progress};
use crate::clock;
use crate::config::Config;

/// Back to where it is delivered from, with the same event id. A delivery goes to its one endpoint again, from the first
/// attempt on; an event that was rejected as a whole goes to all of its integrator's endpoints. A retry that found no queue
/// (`--queue unroutable`) goes on where it was: its attempts stay.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    selection: Selection,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// What became of the messages that fit.
#[derive(Debug, Default)]
struct Tally {
    fitting: usize,
    replayed: usize,
    failed: usize,
}

/// A message that fits, on its way.
struct Outbound {
    letter: Letter,
    delivery: Delivery,
}

impl Replay {
    pub(super) async fn run(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        let filter = self.selection.filter(clock::now())?;
        let outlet = Outlet::open(&config.broker, "replay").await?;
        let mut tally = Tally::default();
        let done = self.replay(config, &filter, &outlet, &mut tally).await;
        outlet.close().await;
        tally.tell(out, self.dry_run)?;
        match done? {
            Some(unreadable) => Err(Broken::Unreadable(unreadable).into()),
            None if tally.failed > 0 => Err(CliError::Failed(format!("{} could not be replayed and stay where they are", tally.failed))),
            None => Ok(()),
        }
    }

    async fn replay(&self, config: &Config, filter: &Filter, outlet: &Outlet, tally: &mut Tally) -> Result<Option<Unreadable>, Broken> {
        through(config, self.selection.queue(config), async |pass| {
            let bar = progress(pass.bound().into());
            // What failed in a pass that was cut short is tried again in this one.
            *tally = Tally { fitting: tally.replayed, replayed: tally.replayed, failed: 0 };
            loop {
                let mut outbound = Vec::new();
                let more = pass
                    .window(|position, delivery| {
                        bar.inc(1);
                        let letter = Letter::read(&delivery, position, config);
                        if filter.fits(&letter) && filter.admits_another_after(tally.fitting) {
                            tally.fitting += 1;
                            if !self.dry_run {
                                outbound.push(Outbound { letter, delivery });
                            }
                        }
                    })
                    .await?;
                if !more {
                    break;
                }
                send(outbound, (config, outlet), pass, (tally, &bar)).await?;
            }
            bar.finish_and_clear();
            Ok(())
        })
        .await
    }
}

/// Sends a window's messages, several at one time, and takes away each one whose copy is confirmed.
async fn send(
    outbound: Vec<Outbound>,
    (config, outlet): (&Config, &Outlet),
    pass: &mut Pass,
    (tally, bar): (&mut Tally, &ProgressBar),
) -> Result<(), Broken> {
    let copies = outbound.into_iter().map(|one| copy(one, config, outlet));
    let mut copies = stream::iter(copies).buffer_unordered(config.broker.publish_channels.max(1));
    while let Some((letter, tag, copied)) = copies.next().await {
        match copied {
            Ok(safe) => {
                pass.settle(tag, Grounds::Copied(safe)).await?;
                tally.replayed += 1;
            }
            Err(why) => {
                tally.failed += 1;
                let event = letter.event.as_deref().map_or_else(|| "without event id".to_owned(), plain);
                bar.suspend(|| eprintln!("message {} ({event}) stays: {why}", letter.position));
            }
        }
    }
    Ok(())
}

async fn copy(outbound: Outbound, config: &Config, outlet: &Outlet) -> (Letter, u64, Result<Confirmed, String>) {
    let Outbound { letter, delivery } = outbound;
    let copied = match letter.replay(&delivery, config, clock::now()) {
        Ok((queue, properties)) => publish(outlet, config, (&queue, properties), &delivery.data).await,
        Err(why) => Err(why),
    };
    (letter, delivery.delivery_tag, copied)
}

async fn publish(outlet: &Outlet, config: &Config, (queue, properties): (&str, BasicProperties), body: &[u8]) -> Result<Confirmed, String> {
    let head = Letterhead { exchange: &config.broker.names.publish, routing_key: queue, properties };
    outlet.publish(head, body).await.map_err(|error| format!("{queue}: {error}"))
}

impl Tally {
    fn tell(&self, out: Out<'_>, dry_run: bool) -> Result<(), CliError> {
        if dry_run {
            return line(out, &format!("would replay {}", self.fitting));
        }
        line(out, &format!("replayed {}, failed {}", self.replayed, self.failed))
    }
}
