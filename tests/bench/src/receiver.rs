//! The receiver process, seen from the benchmark.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::de::DeserializeOwned;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::arrivals::{Count, Latency, Manner};
use crate::child::Child;

/// How often the receiver is asked how far it is.
const POLL: Duration = Duration::from_millis(5);

/// The running receiver.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    port: u16,
    http: reqwest::Client,
}

impl Receiver {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("receiver.port");
        let mut command = Command::new(binary);
        command.arg("receive").arg(&file);
        let mut child = Child::start("receiver", &folder.join("receiver.log"), command)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let port = loop {
            child.ensure_runs()?;
            if let Ok(port) = std::fs::read_to_string(&file) {
                break port.parse()?;
            }
            ensure!(Instant::now() < deadline, "the receiver does not listen");
            sleep(POLL).await;
        };
        Ok(Self { child, port, http: reqwest::Client::builder().no_proxy().build()? })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The URL for the events of an integrator.
    #[must_use]
    pub fn target(&self, integrator: &str) -> String {
        format!("http://127.0.0.1:{}/e/{integrator}", self.port)
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, manner: Option<&Manner>) -> anyhow::Result<T> {
        let request = self.http.post(format!("http://127.0.0.1:{}/-/{path}", self.port)).timeout(Duration::from_secs(10));
        let request = if let Some(manner) = manner { request.json(manner) } else { request };
        let answer = request.send().await.context("the receiver does not answer")?;
        ensure!(answer.status().is_success(), "the receiver answered {}", answer.status());
        Ok(answer.json().await?)
    }

    /// Forgets what arrived and answers in this manner from now on; whoever hangs is answered now.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn reset(&self, manner: &Manner) -> anyhow::Result<()> {
        self.ask::<()>("manner", Some(manner)).await?;
        self.ask("reset", None).await
    }

    /// Answers in this manner from now on; whoever hangs is answered now.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn behave(&self, manner: &Manner) -> anyhow::Result<()> {
        self.ask("manner", Some(manner)).await
    }

    /// Forgets the latencies so far.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn mark(&self) -> anyhow::Result<()> {
        self.ask("mark", None).await
    }

    /// What has arrived.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn count(&self) -> anyhow::Result<Count> {
        self.ask("count", None).await
    }

    /// Publish to arrival since the last mark.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn latency(&self) -> anyhow::Result<Latency> {
        self.ask("latency", None).await
    }

    /// Waits until so many different events of healthy integrators have arrived.
    ///
    /// # Errors
    /// The worker ends, or it takes longer than `limit`.
    pub async fn healthy(&self, wanted: u64, worker: &mut Child, limit: Duration) -> anyhow::Result<Count> {
        let deadline = Instant::now() + limit;
        loop {
            let count = self.count().await?;
            if count.healthy >= wanted {
                return Ok(count);
            }
            worker.ensure_runs()?;
            if Instant::now() >= deadline {
                bail!("only {} of {wanted} events for healthy endpoints arrived within {limit:?}: {}", count.healthy, worker.tail());
            }
            sleep(POLL).await;
        }
    }
}
