//! The command line: one file per command.

pub mod check;
pub mod event_file;
pub mod receive;
pub mod render;
pub mod run;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Problems, locate};
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
    Receive(receive::Receive),
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
                logging::init(&config.log).map_err(|e| CliError::Usage(format!("log.level: {e}")))?;
                command.run(config, directory).await
            }
            Command::Check(command) => command.run(path).await,
            Command::Render(command) => command.run(path).await,
            Command::Receive(command) => command.run().await,
        }
    }
}

fn load(path: Option<PathBuf>) -> Result<Config, CliError> {
    Ok(config::load(&locate::locate(path)?, std::env::vars())?)
}
