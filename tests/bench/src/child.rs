//! A process that is measured: started with its output in a file, watched, ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::{self, Command};
use tokio::time::timeout;

const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Of a log that is shown when something fails.
const TAIL: usize = 6;
/// Of a line of it; a line of JSON says who failed in its first words.
const WIDTH: usize = 300;

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: process::Child,
    pid: u32,
}

impl Child {
    /// Starts it; what it writes goes into `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, log: &Path, mut command: Command) -> anyhow::Result<Self> {
        let file = fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::from(file.try_clone()?)).stderr(Stdio::from(file)).kill_on_drop(true);
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = process.id().context("it ended at once")?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), process, pid })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// That it still runs.
    ///
    /// # Errors
    /// It has ended; the error has the end of its log.
    pub fn ensure_runs(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("{} ended with {status}: {}", self.name, self.tail());
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// It does not end.
    pub async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.ensure_runs()?;
        let sent = Command::new("kill").arg("-TERM").arg(self.pid.to_string()).status().await?;
        ensure!(sent.success(), "cannot signal {}", self.name);
        match timeout(STOP_LIMIT, self.process.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} did not end within {STOP_LIMIT:?} of SIGTERM: {}", self.name, self.tail()),
        }
    }

    /// As [`Self::terminate`], for a process that has to end with exit code 0.
    ///
    /// # Errors
    /// It does not.
    pub async fn stop(self) -> anyhow::Result<()> {
        let (name, log) = (self.name.clone(), self.log.clone());
        let status = self.terminate().await?;
        ensure!(status.success(), "{name} ended with {status} after SIGTERM: {}", tail(&log));
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    last.iter().map(|line| format!("\n  {}", line.chars().take(WIDTH).collect::<String>())).collect()
}
