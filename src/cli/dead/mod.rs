//! `callbackd dead`: look at what was not delivered, put it back on its way, or throw it away.

mod bar;
mod discard;
mod filter;
mod list;
mod replay;
mod show;

use std::io::Write;

use super::CliError;
use crate::config::Config;
use crate::letters::Broken;

/// Works with the dead deliveries, the rejected events and what found no queue. Whatever is not replayed or discarded stays as it is, in order.
#[derive(Debug, clap::Args)]
pub struct Dead {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What is there, without payloads.
    ///
    /// The table has what fits on a line, `--json` and `show` have everything. How many fit is written to standard error.
    List(list::List),
    /// One message, the first that fits: what became of it, and then all its headers.
    Show(show::Show),
    /// Back to where it is delivered from, with the same event id.
    ///
    /// A delivery goes to its one endpoint again, from the first attempt on; an event that was rejected as a whole goes to all of its
    /// integrator's endpoints. A retry that found no queue (`--queue unroutable`) goes on where it was: its attempts stay.
    Replay(replay::Replay),
    /// Away for good. Asks first, and wants to be told which: a filter, or `--all`.
    Discard(discard::Discard),
}

impl Dead {
    /// Does what is asked for.
    ///
    /// # Errors
    /// [`CliError::Usage`] when the command line makes no sense; [`CliError::Failed`] when the broker cannot be worked with or
    /// a message could not be replayed. What was replayed or discarded until then is; nothing is lost.
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        self.run_to(config, &mut std::io::stdout()).await
    }

    /// The same with the results written elsewhere than to standard output.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_to(self, config: &Config, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        match self.action {
            Action::List(list) => list.run(config, out).await,
            Action::Show(show) => show.run(config, out).await,
            Action::Replay(replay) => replay.run(config, out).await,
            Action::Discard(discard) => discard.run(config, out).await,
        }
    }
}

impl From<Broken> for CliError {
    fn from(broken: Broken) -> Self {
        Self::Failed(broken.to_string())
    }
}
