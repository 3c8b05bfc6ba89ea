//! `callbackd dead discard`: away for good.

use super::browse::{Broken, Pass};
use super::filter::{Filter, Selection};
use super::letter::Letter;
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
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Discard {
    pub(super) async fn run(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        if self.selection.is_everything() && !self.all {
            return Err(CliError::Usage("which? Give a filter such as --integrator, or --all for everything in the queue".to_owned()));
        }
        let filter = self.selection.filter(clock::now())?;
        let queue = self.selection.queue(config);
        if self.dry_run || !self.yes {
            let fitting = pass(config, queue, &filter, false).await?;
            if self.dry_run {
                return line(out, &format!("would discard {fitting}"));
            }
            if !confirmed(&format!("Discard {fitting} messages of {queue} for good?"))? {
                return line(out, "discarded 0");
            }
        }
        let discarded = pass(config, queue, &filter, true).await?;
        line(out, &format!("discarded {discarded}"))
    }
}

async fn pass(config: &Config, queue: &str, filter: &Filter, settle: bool) -> Result<usize, Broken> {
    let mut pass = Pass::start(config, queue, None).await?;
    let bar = progress(pass.bound().into());
    let mut fitting = 0;
    loop {
        let mut tags = Vec::new();
        let more = pass
            .window(|position, delivery| {
                bar.inc(1);
                if filter.fits(&Letter::read(&delivery, position, config)) && filter.admits_another_after(fitting) {
                    fitting += 1;
                    tags.push(delivery.delivery_tag);
                }
            })
            .await?;
        if !more {
            break;
        }
        if settle {
            for tag in tags {
                pass.settle(tag).await?;
            }
        }
    }
    bar.finish_and_clear();
    pass.finish().await?;
    Ok(fitting)
}
