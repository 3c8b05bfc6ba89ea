//! The worker goes on when nobody reads its log.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{eventually, free_port};

mod support;

const LIMIT: Duration = Duration::from_secs(30);

/// `callbackd run` with its standard error in a pipe; killed when dropped. There is no broker: it is waited for.
struct Piped {
    child: Child,
    admin: u16,
    _folder: tempfile::TempDir,
}

impl Piped {
    fn start(integrators_later: &str) -> Self {
        let (folder, admin) = (tempfile::tempdir().unwrap(), free_port());
        let config = format!(
            "[broker]\nurl = 'amqp://127.0.0.1:{}'\n[[source]]\nname = 'a'\nexchange = 'a.events'\n[admin]\nlisten = '127.0.0.1:{admin}'\n[delivery_log]\nenabled = false\n",
            free_port()
        );
        let (path, integrators) = (folder.path().join("callbackd.toml"), folder.path().join("integrators.toml"));
        std::fs::write(&path, config).unwrap();
        std::fs::write(&integrators, "").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
        command.args(["run", "--config"]).arg(&path).env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null());
        let mut piped = Self { child: command.stderr(Stdio::piped()).spawn().unwrap(), admin, _folder: folder };
        // The first line comes after the first load.
        let mut first = [0];
        piped.child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
        std::fs::write(&integrators, integrators_later).unwrap();
        piped
    }

    fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    async fn metrics(&self) -> Result<String, String> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let response = client.get(format!("http://127.0.0.1:{}/metrics", self.admin)).send().await.map_err(|e| e.to_string())?;
        response.text().await.map_err(|e| e.to_string())
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_neither_the_worker_nor_its_end() {
    // Many problems: a line of about 4 KB for each refusal. A pipe holds 64 KiB on Linux.
    let bad: String = (0..200).map(|index| format!("[[integrator]]\nkey = 'integrator-{index}'\n")).collect();
    let mut worker = Piped::start(&bad);
    for count in 1..=40 {
        let line = format!("callbackd_config_reloads_total{{result=\"refused\"}} {count}");
        worker.signal("HUP");
        // The file's own change is refused too, so a number may be passed over.
        let at_least = |text: &str| {
            let shown = text.lines().find_map(|line| line.strip_prefix("callbackd_config_reloads_total{result=\"refused\"} "));
            shown.is_some_and(|shown| shown.parse::<u32>().unwrap() >= count)
        };
        eventually(&line, LIMIT, async || match worker.metrics().await {
            Ok(text) if at_least(&text) => Ok(text),
            other => Err(other.map(|text| text.len())),
        })
        .await;
    }
    assert!(worker.metrics().await.unwrap().contains("\ncallbackd_log_lines_dropped_total 0\n"), "there was room for these");
    worker.signal("TERM");
    let status = eventually("the worker ends", LIMIT, async || worker.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_last_lines_come_out() {
    let mut worker = Piped::start("");
    worker.signal("TERM");
    let mut log = String::new();
    worker.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.trim_end().lines().last().unwrap().contains("\"message\":\"stopped\""), "{log}");
    assert_eq!(worker.child.wait().unwrap().code(), Some(0));
}
