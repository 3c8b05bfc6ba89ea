//! `callbackd check`: is the configuration good?

use std::path::PathBuf;

use super::CliError;
use crate::config::{self, locate::locate};

/// Says whether the configuration and the integrators' file are good; all that is wrong at once.
#[derive(Debug, clap::Args)]
pub struct Check {}

impl Check {
    /// Loads both files and prints what is in them.
    ///
    /// # Errors
    /// [`CliError::Usage`] with every problem, a line each.
    pub async fn run(self, path: Option<PathBuf>) -> Result<(), CliError> {
        let (config, directory) = config::load_all(&locate(path)?)?;
        let (sources, integrators, endpoints) = (config.sources.len(), directory.len(), directory.all().count());
        println!("ok: {}, {}, {}", counted(sources, "source"), counted(integrators, "integrator"), counted(endpoints, "endpoint"));
        Ok(())
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
