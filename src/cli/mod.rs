//! The command line: one file per command.

pub mod check;
pub mod dead;
pub mod event_file;
mod outlet;
pub mod publish;
pub mod receive;
mod terminal;
pub mod topology;

use crate::broker::BrokerError;
use crate::config::Problems;

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

impl From<Problems> for CliError {
    fn from(problems: Problems) -> Self {
        Self::Usage(problems.to_string())
    }
}

impl From<BrokerError> for CliError {
    fn from(error: BrokerError) -> Self {
        Self::Failed(error.to_string())
    }
}
