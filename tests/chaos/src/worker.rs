//! The workers that are under test: two processes of the built program on one configuration, each behind its own proxy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::broker::Node;
use crate::child::Child;
use crate::event::Character;
use crate::judge::Terms;
use crate::ledger::{Entry, Ledger};
use crate::plan::WORKERS;
use crate::ports::free_port;
use crate::proxy::TcpProxy;
use crate::signature::written;

/// Where the platform publishes.
pub const EXCHANGE: &str = "compliance.events";
/// The queue of work, and the first word of those for retries.
pub const WORK: &str = "callbacks.compliance";
/// Of each of a worker's two queues.
const PREFETCH: u32 = 200;
/// Requests at one time to one endpoint.
pub const MAX_IN_FLIGHT: u32 = 16;
/// Most deliveries that one worker holds.
pub const HELD: u32 = 2 * PREFETCH;
/// Longest attempt.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is given up after twice this.
pub const HEARTBEAT: Duration = Duration::from_secs(3);
/// A worker sees a step of its clock within this: the library looks again when more than a whole second has gone by.
pub const CLOCK_LAG: Duration = Duration::from_millis(2100);
const READY_LIMIT: Duration = Duration::from_secs(60);

/// What the configuration says of retries.
pub const TERMS: Terms = Terms {
    initial: Duration::from_millis(200),
    multiplier: 2.0,
    max_delay: Duration::from_secs(1),
    jitter: 0.2,
    max_attempts: 4,
    recovery: Duration::from_secs(5),
};

/// How the workers are set up.
#[derive(Debug)]
pub struct Setup {
    /// The program.
    pub program: PathBuf,
    /// libfaketime, through which a worker's clock can be stepped.
    pub faketime: PathBuf,
    /// For configuration and logs.
    pub folder: PathBuf,
    /// The address of each endpoint's proxy.
    pub endpoints: Vec<(Character, std::net::SocketAddr)>,
}

impl Setup {
    fn integrators_file(&self) -> PathBuf {
        self.folder.join("integrators.toml")
    }

    /// Puts a version of `integrators.toml` in place, whole at every moment. Signing keys are those of this generation and the
    /// one before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_integrators(&self, generation: u32) -> anyhow::Result<()> {
        let mut text = format!("# Generation {generation}.\n");
        for (character, address) in &self.endpoints {
            let keys = (generation.saturating_sub(1)..=generation).map(|one| format!("\"{}\"", written(&character.secret(one))));
            let keys = keys.collect::<Vec<_>>().join(", ");
            let attempts = if *character == Character::Refusing { TERMS.max_attempts } else { 1000 };
            write!(
                text,
                "[[integrator]]\nkey = \"{key}\"\n[[integrator.endpoint]]\nid = \"hook\"\nurl = \"http://{address}{path}\"\nformat = \
                 \"topic\"\nsigning_secrets = [{keys}]\nmax_in_flight = {MAX_IN_FLIGHT}\nretry = {{ max_attempts = {attempts} }}\n",
                key = character.key(),
                path = character.path(),
            )?;
        }
        self.put(&text)
    }

    /// Puts a version in place that must be refused.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_bad_integrators(&self) -> anyhow::Result<()> {
        self.put("[[integrator]]\nkey = \"prompt\"\nno_such_key = 1\n")
    }

    fn put(&self, text: &str) -> anyhow::Result<()> {
        let new = self.folder.join("integrators.new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, self.integrators_file())?)
    }

    fn write_worker(&self, number: usize, broker: &str) -> anyhow::Result<PathBuf> {
        let file = self.folder.join(format!("callbackd-{number}.toml"));
        let (heartbeat, timeout) = (HEARTBEAT.as_secs(), TIMEOUT.as_secs());
        let text = format!(
            r#"
broker = {{ url = "{broker}", heartbeat = "{heartbeat}s", timeout = "5s" }}
wait = {{ shortest = "200ms", longest = "4s" }}
worker = {{ unknown_integrator_wait = "2s" }}
egress = {{ allow_http = true, allow_private_networks = true }}
integrators = {{ file = "integrators.toml" }}
log = {{ format = "json", level = "warn" }}

[[source]]
name = "compliance"
exchange = "{EXCHANGE}"
prefetch = {PREFETCH}

[delivery]
timeout = "{timeout}s"
retry = {{ initial = "200ms", multiplier = 2.0, max_delay = "1s", max_age = "24h", jitter = 0.2 }}
circuit = {{ initial_wait = "200ms", max_wait = "1s" }}
"#
        );
        std::fs::write(&file, text)?;
        Ok(file)
    }
}

/// A worker.
pub struct Worker {
    number: usize,
    setup: Arc<Setup>,
    ledger: Arc<Ledger>,
    /// Between it and the broker.
    pub link: TcpProxy,
    configuration: PathBuf,
    admin: u16,
    lives: u32,
    child: Option<Child>,
}

/// Starts all of them.
///
/// # Errors
/// One does not start.
pub async fn start_all(setup: &Arc<Setup>, node: &Node, ledger: &Arc<Ledger>) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let link = TcpProxy::to(format!("127.0.0.1:{}", node.port()));
        let configuration = setup.write_worker(number, &Node::url_at(link.address().port(), "%2f"))?;
        // Kept over all its lives.
        let admin = free_port();
        let (setup, ledger) = (Arc::clone(setup), Arc::clone(ledger));
        let mut worker = Worker { number, setup, ledger, link, configuration, admin, lives: 0, child: None };
        worker.start()?;
        worker.wait_ready().await?;
        workers.push(worker);
    }
    Ok(workers)
}

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.lives += 1;
        let mut command = Command::new(&self.setup.program);
        command.arg("--config").arg(&self.configuration).arg("run").env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
        command.env("CALLBACKD__ADMIN__LISTEN", format!("127.0.0.1:{}", self.admin));
        self.set_clock(0)?;
        // The monotonic clock stays right, as it does when a machine's clock is set.
        command.env("LD_PRELOAD", &self.setup.faketime).env("FAKETIME_TIMESTAMP_FILE", self.clock_file());
        command.env("FAKETIME_CACHE_DURATION", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        let log = self.setup.folder.join(format!("worker-{}-{:03}.log", self.number, self.lives));
        self.child = Some(Child::start(&format!("worker {}", self.number), &log, command)?);
        Ok(())
    }

    /// Sets its clock, seconds off from the right one; it sees that within [`CLOCK_LAG`].
    ///
    /// # Errors
    /// The file that says so cannot be written.
    pub fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let new = self.clock_file().with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n"))?;
        Ok(std::fs::rename(new, self.clock_file())?)
    }

    fn clock_file(&self) -> PathBuf {
        self.setup.folder.join(format!("clock-{}", self.number))
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It was not running.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let child = self.child.take().context("the worker does not run")?;
        let pid = child.pid();
        // Dropping a child kills it.
        drop(child);
        Self::clean_up_after(pid);
        Ok(())
    }

    /// SIGTERM. That it does not end in order is written down as misconduct.
    pub async fn stop(&mut self) {
        let Some(child) = self.child.take() else { return };
        let end = child.terminate().await;
        if !matches!(&end, Ok(status) if status.success()) {
            self.misconduct(format!("worker {} after SIGTERM: {end:?}", self.number));
        }
    }

    /// Writes down that it has ended by itself, and starts it again.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn look_after(&mut self) -> anyhow::Result<()> {
        match self.child.as_mut().map(Child::ensure_runs) {
            Some(Err(error)) => {
                self.misconduct(format!("{error:#}"));
                self.start()
            }
            _ => Ok(()),
        }
    }

    /// Writes down that it has ended, and starts it again then; and that it is not ready within a minute.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn look_for(&mut self) -> anyhow::Result<()> {
        self.look_after()?;
        if let Err(error) = self.wait_ready().await {
            self.misconduct(format!("{error:#}"));
        }
        Ok(())
    }

    /// What libfaketime leaves of a process that was killed.
    fn clean_up_after(pid: u32) {
        for left in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{left}{pid}"));
        }
    }

    fn misconduct(&self, text: String) {
        self.ledger.write(Entry::Misconduct { text });
    }

    /// Sends a signal by its name, such as `HUP`, `STOP` or `CONT`.
    ///
    /// # Errors
    /// It does not run.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.child.as_ref().context("the worker does not run")?.pid();
        let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().await?;
        ensure!(sent.success(), "cannot signal the worker");
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It does not within a minute.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while self.ask("readyz").await.is_err() {
            self.child.as_mut().context("the worker does not run")?.ensure_runs()?;
            if Instant::now() >= deadline {
                bail!("worker {} is not ready within {READY_LIMIT:?}", self.number);
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let answer = client.get(format!("http://127.0.0.1:{}/{path}", self.admin)).send().await?;
        ensure!(answer.status().is_success(), "{} to {path}", answer.status());
        Ok(answer.text().await?)
    }

    /// The value of a series of its metrics.
    ///
    /// # Errors
    /// It does not answer, or has no such series.
    pub async fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = self.ask("metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {series}"))?.parse()?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The folder's logs, one for each life.
///
/// # Errors
/// The folder cannot be read.
pub fn logs(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("worker-") && name.ends_with(".log") {
            logs.push(path);
        }
    }
    logs.sort();
    Ok(logs)
}
