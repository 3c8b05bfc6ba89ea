//! The command line: one file per command.

pub mod check;
pub mod dead;
pub mod event_file;
pub mod explain;
pub mod publish;
pub mod receive;
pub mod render;
pub mod run;
mod terminal;
pub mod topology;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::broker::BrokerError;
use crate::config::{self, Config, Environment, Problems, locate};
use crate::telemetry::logging;

/// Tells integrators what happened: consumes a platform's events from RabbitMQ and delivers them over HTTP.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 120)]
pub struct Cli {
    /// The configuration file [default: callbackd.toml, then /etc/callbackd/callbackd.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Render(render::Render),
    Publish(publish::Publish),
    Receive(receive::Receive),
    Dead(dead::Dead),
    Explain(explain::Explain),
    Topology(topology::TopologyCommand),
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments or the configuration are no good: exit code 64.
    #[error("{0}")]
    Usage(String),
    /// The command was understood and failed: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The exit code of the process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Failed(_) => 1,
        }
    }
}

impl From<Problems> for CliError {
    fn from(problems: Problems) -> Self {
        Self::Usage(problems.to_string())
    }
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// [`CliError`] with the text for the user.
    pub async fn run(self) -> Result<(), CliError> {
        let path = self.config;
        match self.command {
            Command::Run(command) => {
                let path = locate::locate(path)?;
                let (config, directory) = config::load_all(&path)?;
                let _log = logging::init(&config.log).map_err(|e| CliError::Usage(e.to_string()))?;
                command.run(config, directory).await
            }
            Command::Check(command) => command.run(path).await,
            Command::Render(command) => command.run(path).await,
            Command::Publish(command) => command.run(&load(path)?).await,
            Command::Receive(command) => command.run().await,
            Command::Dead(command) => command.run(&load(path)?).await,
            Command::Explain(command) => command.run(&load(path)?).await,
            Command::Topology(command) => command.run(&load(path)?).await,
        }
    }
}

fn load(path: Option<PathBuf>) -> Result<Config, CliError> {
    Ok(config::load_with(&locate::locate(path)?, &Environment::of_process())?)
}

impl From<BrokerError> for CliError {
    fn from(error: BrokerError) -> Self {
        Self::Failed(error.to_string())
    }
}
