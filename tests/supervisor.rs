//! What systemd is told by the built program, and the unit that starts it.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use callbackd::config;
use support::{Exit, Worker};
use tokio::net::UnixDatagram;

const SOON: Duration = Duration::from_secs(30);

/// A socket as systemd listens to.
struct Listener {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Listener {
    fn listen() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        Self { folder, socket }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    async fn next(&self) -> String {
        let mut bytes = [0; 500];
        let length = tokio::time::timeout(SOON, self.socket.recv(&mut bytes)).await.expect("a message in time").expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    /// The next message that is no sign of life.
    async fn news(&self) -> String {
        loop {
            let message = self.next().await;
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }
}

/// A broker that is not there.
const NO_BROKER: &str = "[broker]\nurl = \"amqp://127.0.0.1:1\"\n[[source]]\nname = \"a\"\nexchange = \"a\"\n";

fn start(listener: &Listener, more: &[(&str, &str)]) -> Worker {
    let path = listener.path();
    let mut environment = vec![("NOTIFY_SOCKET", path.to_str().expect("a path"))];
    environment.extend(more);
    Worker::start_with(NO_BROKER, "", &environment)
}

#[tokio::test]
async fn it_is_ready_when_it_can_be_asked_even_without_a_broker_and_tells_of_reload_and_stop() {
    let listener = Listener::listen();
    let mut worker = start(&listener, &[]);
    let ready = listener.news().await;
    assert_eq!(ready, format!("READY=1\nSTATUS=whether it is well: {}", worker.admin_url("/readyz")));
    assert_eq!(worker.admin("/livez").await.expect("an answer at once").0, 200);
    assert_eq!(worker.admin("/readyz").await.expect("an answer").0, 503, "there is no broker");

    // A bad version is refused, and the reload is over all the same.
    for integrators in ["", "integrator = 7"] {
        worker.write_integrators(integrators);
        worker.signal("HUP");
        assert!(listener.news().await.starts_with("RELOADING=1\n"));
        let again = listener.news().await;
        assert_eq!(again, ready);
    }
    // The log is written beside the work.
    let is_refusal = |line: &serde_json::Value| line["message"] == "reload refused";
    worker.wait_for_log("the refusal", SOON, is_refusal).await;

    worker.sigterm();
    assert!(listener.news().await.starts_with("STOPPING=1\n"));
    assert_eq!(worker.wait_exit(SOON).await, Exit::Code(0));
}

#[tokio::test]
async fn it_says_that_it_lives_twice_as_often_as_it_has_to_and_falls_silent_when_it_hangs() {
    let listener = Listener::listen();
    let worker = start(&listener, &[("WATCHDOG_USEC", "400000")]);
    listener.news().await;
    let began = tokio::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(listener.next().await, "WATCHDOG=1");
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1500), "ten signs of life, 200 ms apart, in {took:?}");
    worker.signal("STOP");
    let silent = async || {
        let mut bytes = [0; 500];
        // What was sent before, then nothing.
        while tokio::time::timeout(Duration::from_secs(1), listener.socket.recv(&mut bytes)).await.is_ok() {}
    };
    tokio::time::timeout(SOON, silent()).await.expect("silence");
    worker.signal("CONT");
    assert_eq!(listener.next().await, "WATCHDOG=1");
}

#[tokio::test]
async fn a_socket_that_can_be_none_is_said_and_nothing_is_started() {
    let long = "x".repeat(200);
    let mut worker = Worker::start_with(NO_BROKER, "", &[("NOTIFY_SOCKET", long.as_str())]);
    assert_eq!(worker.wait_exit(SOON).await, Exit::Code(1));
    assert!(worker.log_text().contains("NOTIFY_SOCKET: "), "{}", worker.log_text());
}

fn unit() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/callbackd.service")).expect("the unit")
}

/// The value of a setting, in seconds.
fn seconds(setting: &str) -> u64 {
    let unit = unit();
    let line = unit.lines().find_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).expect(setting);
    line.strip_suffix('s').expect("seconds").parse().expect("a number")
}

#[test]
fn the_unit_gives_a_stop_the_time_that_the_worker_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.toml");
    std::fs::write(&file, NO_BROKER).expect("written");
    let config = config::load(&file, []).unwrap_or_else(|problems| panic!("{problems}"));
    // After the requests, connections are closed, each within the broker's limit.
    assert!(seconds("TimeoutStopSec") >= (config.worker.stop_timeout + config.broker.timeout).as_secs() + 5);
    assert!(unit().contains("RestartPreventExitStatus=64\n") && unit().contains("Type=notify\n"));
}

/// Runs `systemd-analyze` on the unit with the built program in it; `None` where there is none.
fn analyze(arguments: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.service");
    std::fs::write(&file, unit().replace("/usr/local/bin/callbackd", env!("CARGO_BIN_EXE_callbackd"))).expect("written");
    match Command::new("systemd-analyze").args(arguments).arg(&file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        output => Some(output.expect("systemd-analyze runs")),
    }
}

#[test]
fn systemd_takes_the_unit_without_a_word() {
    let Some(output) = analyze(&["verify", "--man=no", "--recursive-errors=no"]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn systemd_finds_little_that_the_unit_leaves_open() {
    // Tenths of its points, of which a unit without any such setting has 96.
    let Some(output) = analyze(&["security", "--no-pager", "--offline=true", "--threshold=15"]) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
