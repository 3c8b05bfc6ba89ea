//! `callbackd ping`: calls an integrator's endpoints with a callback that tells of nothing.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;

use super::CliError;
use super::terminal::{Out, line};
use crate::config::{self, locate};
use crate::domain::integrator::Endpoint;
use crate::domain::names::IntegratorKey;
use crate::domain::reply::Reply;
use crate::egress::{self, Egress, Tokens};
use crate::telemetry::Telemetry;

/// Calls an integrator's endpoints with an empty callback (`[]`), signed and authorized as any other, and says what came of it.
///
/// It carries the header `callback-ping: 1` and tells of no event. This machine calls, with its configuration: not a worker that runs elsewhere.
/// An endpoint that answers with a 4xx or 5xx may still take callbacks: not each is made for an array without entries.
#[derive(Debug, clap::Args)]
pub struct Ping {
    /// The integrator's key.
    integrator: String,
    /// Only this endpoint.
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
}

impl Ping {
    /// Pings, and writes a line for each endpoint to standard output.
    ///
    /// # Errors
    /// [`CliError::Usage`] when there is no such endpoint; [`CliError::Failed`] when one does not answer with a 2xx.
    pub async fn run(self, path: Option<PathBuf>) -> Result<(), CliError> {
        let (config, directory) = config::load_all(&locate::locate(path)?)?;
        let nobody = || CliError::Usage(format!("no such endpoint is configured in {}", config.integrators_file.display()));
        let key = IntegratorKey::try_new(&self.integrator).map_err(|_| nobody())?;
        let is_wanted = |endpoint: &&Arc<Endpoint>| self.endpoint.as_deref().is_none_or(|id| id == endpoint.id.as_str());
        let endpoints: Vec<&Arc<Endpoint>> = directory.endpoints(&key).unwrap_or_default().iter().filter(is_wanted).collect();
        if endpoints.is_empty() {
            return Err(nobody());
        }
        let egress = Egress::new(&config.egress).map_err(|error| CliError::Failed(error.to_string()))?;
        let tokens = Tokens::new(egress.clone(), Telemetry::default());
        let replies = join_all(endpoints.iter().map(|endpoint| egress::ping(&egress, &tokens, endpoint))).await;
        let mut failed = 0;
        for (endpoint, reply) in endpoints.iter().zip(&replies) {
            failed += usize::from(!reply.is_success());
            tell(&mut io::stdout(), endpoint, reply)?;
        }
        if failed > 0 { Err(CliError::Failed(format!("{failed} of {} did not answer with a 2xx", endpoints.len()))) } else { Ok(()) }
    }
}

fn tell(out: Out<'_>, endpoint: &Endpoint, reply: &Reply) -> Result<(), CliError> {
    let answer = reply.error().unwrap_or_else(|| format!("answered {}", reply.status().unwrap_or_default()));
    line(out, &format!("{}/{}  {}  {answer} after {} ms", endpoint.integrator, endpoint.id, endpoint.url, reply.took.as_millis()))
}
