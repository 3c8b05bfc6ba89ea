//! The built program as a child process: started, watched, ended, killed.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::broker::Vhost;
use super::eventually::eventually;
use super::ports::free_port;

/// The limit on coming up: a debug build on a machine busy with other tests.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The limit on one request to the admin port.
const ADMIN_LIMIT: Duration = Duration::from_secs(5);

/// The worker makes the text of its metrics once in this time; asked again before, it shows what was.
const METRICS_FRESH: Duration = Duration::from_secs(1);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// `callbackd run` in a folder of its own. Killed when dropped; a failing test shows the end of its log.
#[derive(Debug)]
pub struct Worker {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    admin: u16,
    child: Child,
    /// When its metrics were last asked for.
    scraped: Mutex<Option<Instant>>,
}

impl Worker {
    /// Starts a worker with these two files. `admin.listen` is a free port and logs are JSON whatever the file says.
    pub fn start(config: &str, integrators: &str) -> Self {
        Self::start_with(config, integrators, &[])
    }

    /// The same with more environment variables.
    ///
    /// # Panics
    /// When the folder or the process cannot be made.
    pub fn start_with(config: &str, integrators: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the worker");
        std::fs::write(folder.path().join("callbackd.toml"), config).expect("callbackd.toml");
        std::fs::write(folder.path().join("integrators.toml"), integrators).expect("integrators.toml");
        let admin = free_port();
        let mut all = vec![
            ("CALLBACKD__ADMIN__LISTEN".to_owned(), format!("127.0.0.1:{admin}")),
            ("CALLBACKD__LOG__FORMAT".to_owned(), "json".to_owned()),
        ];
        all.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let child = spawn(folder.path(), &all);
        Self { folder, environment: all, admin, child, scraped: Mutex::default() }
    }

    /// Starts the program anew in the same folder, after it has ended.
    ///
    /// # Panics
    /// When it is still running.
    pub fn start_again(&mut self) {
        assert!(self.exit().is_some(), "the worker is still running");
        self.child = spawn(self.folder.path(), &self.environment);
    }

    /// Its folder, with `callbackd.toml`, `integrators.toml` and `worker.log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a new `integrators.toml` in place, whole at every moment.
    pub fn write_integrators(&self, text: &str) {
        let (new, name) = (self.folder.path().join("integrators.new"), self.folder.path().join("integrators.toml"));
        std::fs::write(&new, text).expect("integrators.new");
        std::fs::rename(new, name).expect("integrators.toml");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// After 30 s, or at once when the process ends.
    pub async fn wait_ready(&mut self) {
        let url = self.admin_url("/readyz");
        let child = &mut self.child;
        eventually("the worker is ready", READY_LIMIT, async || {
            if let Some(status) = child.try_wait().expect("the worker's state") {
                panic!("the worker ended before it was ready: {status}");
            }
            match get(&url).await {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// The status and text that its admin port gives for a path, such as `/readyz`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn admin(&self, path: &str) -> Result<(u16, String), String> {
        get(&self.admin_url(path)).await
    }

    /// Its metrics of this moment as text. Waits until the text that it last gave is no longer fresh.
    ///
    /// # Panics
    /// When they are not served.
    pub async fn metrics(&self) -> String {
        let mut scraped = self.scraped.lock().await;
        if let Some(last) = *scraped {
            tokio::time::sleep_until(last + METRICS_FRESH).await;
        }
        let answer = self.admin("/metrics").await;
        *scraped = Some(Instant::now());
        match answer {
            Ok((200, text)) => text,
            other => panic!("/metrics: {other:?}"),
        }
    }

    /// The sum of all series of a metric that have these labels; `None` where there is no such series.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        sum_of(&self.metrics().await, name, labels)
    }

    /// Waits until a metric is at least `value`.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], value: f64, limit: Duration) {
        eventually(&format!("{name}{labels:?} at {value}"), limit, async || {
            let now = self.metric(name, labels).await;
            if now.is_some_and(|now| now >= value) { Ok(()) } else { Err(now) }
        })
        .await;
    }

    /// All that it has written.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its log lines so far; a line that is not whole yet is left out.
    ///
    /// # Panics
    /// When a whole line is not JSON.
    pub fn log_lines(&self) -> Vec<serde_json::Value> {
        let text = self.log_text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("a log line is not JSON ({error}): {line}")))
            .collect()
    }

    /// Waits until some log line fits, and returns it.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_for_log(&self, what: &str, limit: Duration, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        eventually(&format!("a log line: {what}"), limit, async || self.log_lines().into_iter().find(|line| fits(line))).await
    }

    /// Asks it to stop, as an operator does.
    pub fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name, such as `HUP`, `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the program of that name is not on every machine.
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status().expect("a shell");
        assert!(status.success(), "kill -{name} of the worker failed: is it still running?");
    }

    /// Kills it as a crash would and waits for its end.
    pub fn sigkill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn exit(&mut self) -> Option<Exit> {
        self.child.try_wait().expect("the worker's state").map(Exit::of)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After `limit`.
    pub async fn wait_exit(&mut self, limit: Duration) -> Exit {
        eventually("the worker ends", limit, async || self.exit()).await
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("worker.log")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.sigkill();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the worker's log:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Exit {
    fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

/// A `callbackd.toml` for tests: this vhost, both sources of the platform, waits of a fraction of a second, local
/// receivers allowed. Few rungs, as each is a queue of its own. Other values come through the environment
/// (`CALLBACKD__DELIVERY__TIMEOUT`), see [`Worker::start_with`].
pub fn short_waits(vhost: &Vhost) -> String {
    format!(
        r#"
[broker]
url = "{}"

[[source]]
name = "compliance"
exchange = "compliance.events"

[[source]]
name = "ident"
exchange = "ident.events"

[wait]
shortest = "200ms"
longest = "1s"

[delivery]
timeout = "5s"
retry = {{ initial = "200ms", multiplier = 2.0, max_delay = "1s", max_age = "10m", jitter = 0.2 }}

[egress]
allow_http = true
allow_private_networks = true
"#,
        vhost.url()
    )
}

fn spawn(folder: &Path, environment: &[(String, String)]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("worker.log")).expect("worker.log");
    Command::new(env!("CARGO_BIN_EXE_callbackd"))
        .args(["run", "--config"])
        .arg(folder.join("callbackd.toml"))
        // That of whoever runs the tests; a test may set its own.
        .env_remove("RUST_LOG")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("worker.log"))
        .stderr(log)
        .spawn()
        .expect("the worker starts")
}

async fn get(url: &str) -> Result<(u16, String), String> {
    let client = reqwest::Client::builder().no_proxy().timeout(ADMIN_LIMIT).build().expect("a client");
    let response = client.get(url).send().await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    Ok((status, response.text().await.map_err(|error| error.to_string())?))
}

/// Reads the text format of Prometheus: `name{label="value",…} number`.
fn sum_of(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            // With a comma on both sides, so that a label cannot pass for the end of a longer one.
            let rest = format!(",{},", rest.trim_end_matches('}'));
            (found == name && wanted.iter().all(|label| rest.contains(&format!(",{label},")))).then(|| value.parse::<f64>().ok())?
        })
        .reduce(|a, b| a + b)
}
