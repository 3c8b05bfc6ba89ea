//! The commands, one file each.

pub mod event_file;
pub mod receive;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line, a file or the configuration is wrong: exit code 64.
    #[error("{0}")]
    Usage(String),
    /// The command was understood and did not succeed: exit code 1.
    #[error("{0}")]
    Failed(String),
}
