//! Who takes part: the floors, Node, and callbackd in each setting.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::time::sleep;

use crate::child::Child;
use crate::event::integrator;
use crate::receiver::Receiver;

/// The exchange that everything is published to.
pub const EXCHANGE: &str = "bench.events";
/// The queue that everybody consumes, declared by callbackd.
pub const QUEUE: &str = "callbacks.bench";
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Debug, Clone, Copy)]
pub enum Contestant {
    /// lapin and reqwest, two threads, each acknowledged.
    Naive,
    /// lapin and reqwest, one thread, acknowledged in bursts.
    Best,
    /// amqplib and undici.
    Node,
    /// callbackd.
    Ours(Setting),
}

/// How callbackd is set up.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Of the source.
    pub prefetch: u16,
    /// Of every endpoint; the default where nothing is said.
    pub max_in_flight: Option<u16>,
    /// Events in one request.
    pub batch: Option<u16>,
    /// How many are configured.
    pub integrators: usize,
    /// The first one's endpoint refuses connections.
    pub first_is_down: bool,
    /// What becomes of each event is recorded, in SQLite.
    pub delivery_log: bool,
}

impl Setting {
    /// One endpoint, 64 in flight.
    pub const SINGLE: Self =
        Self { prefetch: 1000, max_in_flight: Some(64), batch: None, integrators: 1, first_is_down: false, delivery_log: false };

    /// So many endpoints, everything else as it is by default.
    #[must_use]
    pub const fn many(integrators: usize) -> Self {
        Self { max_in_flight: None, integrators, ..Self::SINGLE }
    }
}

/// What is needed to start one.
#[derive(Debug)]
pub struct Programs {
    /// The binary `callbackd`.
    pub callbackd: PathBuf,
    /// This program, which is receiver and floors too.
    pub bench: PathBuf,
    /// `worker.js`.
    pub node: PathBuf,
    /// Where configuration and logs are written.
    pub folder: PathBuf,
}

impl Programs {
    /// Starts a contestant on the queue. callbackd is waited for until it says that it is ready; what that took is returned.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&self, who: Contestant, amqp: &str, receiver: &Receiver) -> anyhow::Result<(Child, Duration)> {
        let target = receiver.target(&integrator(0));
        let floor = |name: &str| {
            let mut command = Command::new(&self.bench);
            command.args([name, amqp, QUEUE, &target]);
            Child::start(name, &self.folder.join(format!("{name}.log")), command)
        };
        let started = Instant::now();
        match who {
            Contestant::Naive => Ok((floor("naive")?, started.elapsed())),
            Contestant::Best => Ok((floor("best")?, started.elapsed())),
            Contestant::Node => {
                let mut command = Command::new("node");
                command.arg(&self.node).args([amqp, QUEUE, &target]);
                Ok((Child::start("node", &self.folder.join("node.log"), command)?, started.elapsed()))
            }
            Contestant::Ours(setting) => self.start_ours(setting, amqp, receiver).await,
        }
    }

    async fn start_ours(&self, setting: Setting, amqp: &str, receiver: &Receiver) -> anyhow::Result<(Child, Duration)> {
        let admin = free_port()?;
        self.configure(setting, amqp, receiver, admin)?;
        let mut command = Command::new(&self.callbackd);
        command.arg("--config").arg(self.configuration()).arg("run");
        let started = Instant::now();
        let mut child = Child::start("callbackd", &self.folder.join("callbackd.log"), command)?;
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        loop {
            child.ensure_runs()?;
            let answer = http.get(format!("http://127.0.0.1:{admin}/readyz")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok((child, started.elapsed()));
            }
            if started.elapsed() > READY_LIMIT {
                bail!("callbackd was not ready within {READY_LIMIT:?}: {}", child.tail());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Declares queues and exchanges in a new virtual host.
    ///
    /// # Errors
    /// callbackd refuses.
    pub async fn declare(&self, amqp: &str, receiver: &Receiver) -> anyhow::Result<()> {
        self.configure(Setting::SINGLE, amqp, receiver, 0)?;
        let mut command = Command::new(&self.callbackd);
        command.arg("--config").arg(self.configuration()).args(["topology", "apply"]);
        let output = command.output().await.context("cannot start callbackd")?;
        ensure!(output.status.success(), "callbackd topology apply: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Whether callbackd has said that entries of the delivery log were left out.
    #[must_use]
    pub fn has_left_out_entries(&self) -> bool {
        fs::read_to_string(self.folder.join("callbackd.log")).is_ok_and(|log| log.contains("delivery log full"))
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("callbackd.toml")
    }

    fn configure(&self, setting: Setting, amqp: &str, receiver: &Receiver, admin: u16) -> anyhow::Result<()> {
        let Setting { prefetch, delivery_log, .. } = setting;
        for file in ["delivery-log.db", "delivery-log.db-wal", "delivery-log.db-shm"] {
            let _ = fs::remove_file(self.folder.join(file));
        }
        let text = format!(
            r#"broker = {{ url = "{amqp}" }}
egress = {{ allow_http = true, allow_private_networks = true }}
admin = {{ listen = "127.0.0.1:{admin}" }}
integrators = {{ file = "integrators.toml" }}
log = {{ format = "json", level = "info" }}
delivery_log = {{ enabled = {delivery_log}, database = "sqlite:delivery-log.db" }}

[[source]]
name = "bench"
exchange = "{EXCHANGE}"
prefetch = {prefetch}
"#
        );
        fs::write(self.configuration(), text)?;
        write_integrators(&self.folder.join("integrators.toml"), setting, receiver)
    }
}

fn write_integrators(file: &Path, setting: Setting, receiver: &Receiver) -> anyhow::Result<()> {
    let mut text = String::new();
    for number in 0..setting.integrators {
        let key = integrator(number);
        let url =
            if setting.first_is_down && number == 0 { format!("http://127.0.0.1:{}/e/{key}", free_port()?) } else { receiver.target(&key) };
        write!(
            text,
            r#"[[integrator]]
key = "{key}"

[[integrator.endpoint]]
id = "main"
url = "{url}"
format = "topic"
signing_secrets = ["whsec_Y2FsbGJhY2tkIGJlbmNobWFyaywgbm90IGEgc2VjcmV0"]
"#
        )?;
        if let Some(limit) = setting.max_in_flight {
            writeln!(text, "max_in_flight = {limit}")?;
        }
        if let Some(events) = setting.batch {
            writeln!(text, "batch = {{ max_events = {events} }}")?;
        }
        text.push('\n');
    }
    Ok(fs::write(file, text)?)
}

/// A port that nobody listens on at this moment, and most likely not in a minute either.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
