//! `callbackd dead discard`: away for good.

use lapin::message::Delivery;

use super::browse::{Broken, Grounds, Pass, through};
use super::filter::{Filter, Selection};
use super::letter::Letter;
use super::unreadable::{Unreadable, take_out};
use crate::broker::{Letterhead, Outlet};
use crate::cli::CliError;
use crate::cli::terminal::{Out, confirmed, line, progress};
use crate::clock;
use crate::config::Config;

/// Away for good. Asks first, and wants to be told which: a filter, or `--all`.
#[derive(Debug, clap::Args)]
pub(super) struct Discard {
    #[command(flatten)]
    selection: Selection,
    /// Without a filter: everything that is in the queue.
    #[arg(long)]
    all: bool,
    /// Only the first message that no command can read, which hides all behind it. Its body is not looked at.
    #[arg(long, conflicts_with_all = ["all", "integrator", "endpoint", "reason", "event", "since", "until", "limit"])]
    unreadable: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Discard {
    pub(super) async fn run(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        if self.unreadable {
            return self.take_out(config, out).await;
        }
        if self.selection.is_everything() && !self.all {
            return Err(CliError::Usage("which? Give a filter such as --integrator, or --all for everything in the queue".to_owned()));
        }
        let now = clock::now();
        let mut filter = self.selection.filter(now)?;
        let queue = self.selection.queue(config);
        if self.dry_run || !self.yes {
            filter = filter.before_question(now);
            let (fitting, unreadable) = count(config, queue, &filter).await?;
            if self.dry_run {
                line(out, &format!("would discard {fitting}"))?;
                return complete(unreadable);
            }
            if fitting == 0 || !confirmed(&format!("Discard {fitting} messages of {queue} for good?"))? {
                line(out, "discarded 0")?;
                return complete(unreadable);
            }
            // Nobody was asked about what came meanwhile.
            filter = filter.at_most(fitting);
        }
        let mut discarded = 0;
        let done = discard(config, queue, &filter, &mut discarded).await;
        line(out, &format!("discarded {discarded}"))?;
        complete(done?)
    }

    async fn take_out(&self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        let queue = self.selection.queue(config);
        let Some(found) = Pass::scout(&config.broker, queue).await? else {
            return line(out, &format!("every message of {queue} can be read"));
        };
        let Unreadable { position, .. } = found;
        if self.dry_run {
            return line(out, &format!("would discard message {position}, which cannot be read"));
        }
        if !self.yes && !confirmed(&format!("Discard message {position} of {queue}, which cannot be read, for good?"))? {
            return line(out, "discarded 0");
        }
        if let Some(other) = take_out(&config.broker, &found).await? {
            return put_in_again(config, queue, other).await;
        }
        line(out, &format!("discarded message {position}, which could not be read"))
    }
}

/// Somebody else has moved the messages at the same time, and this one was taken in place of the one that was meant.
async fn put_in_again(config: &Config, queue: &str, message: Delivery) -> Result<(), CliError> {
    let outlet = Outlet::open(&config.broker, "dead").await?;
    let head = Letterhead { exchange: "", routing_key: queue, properties: message.properties };
    let again = outlet.publish(head, &message.data).await;
    outlet.close().await;
    match again {
        Ok(_) => Err(CliError::Failed(format!("{queue} has changed meanwhile; nothing was taken out, try again"))),
        Err(error) => {
            Err(CliError::Failed(format!("{queue} has changed meanwhile; a message was taken out by mistake and is lost: {error}")))
        }
    }
}

/// A queue of which only a part could be looked at is a failure.
fn complete(unreadable: Option<Unreadable>) -> Result<(), CliError> {
    unreadable.map_or(Ok(()), |unreadable| Err(Broken::Unreadable(unreadable).into()))
}

async fn count(config: &Config, queue: &str, filter: &Filter) -> Result<(usize, Option<Unreadable>), Broken> {
    let mut fitting = 0;
    let unreadable = through(config, queue, async |pass| {
        let bar = progress(pass.bound().into());
        fitting = 0;
        while pass
            .window(|position, delivery| {
                bar.inc(1);
                let fits = filter.fits(&Letter::read(&delivery, position, config)) && filter.admits_another_after(fitting);
                fitting += usize::from(fits);
            })
            .await?
        {}
        bar.finish_and_clear();
        Ok(())
    })
    .await?;
    Ok((fitting, unreadable))
}

/// Counts each as soon as it is gone, so that the count is right on every way out.
async fn discard(config: &Config, queue: &str, filter: &Filter, discarded: &mut usize) -> Result<Option<Unreadable>, Broken> {
    through(config, queue, async |pass| {
        let bar = progress(pass.bound().into());
        loop {
            let mut tags = Vec::new();
            let more = pass
                .window(|position, delivery| {
                    bar.inc(1);
                    let fits = filter.fits(&Letter::read(&delivery, position, config));
                    if fits && filter.admits_another_after(*discarded + tags.len()) {
                        tags.push(delivery.delivery_tag);
                    }
                })
                .await?;
            if !more {
                break;
            }
            for tag in tags {
                pass.settle(tag, Grounds::Discarded).await?;
                *discarded += 1;
            }
        }
        bar.finish_and_clear();
        Ok(())
    })
    .await
}
