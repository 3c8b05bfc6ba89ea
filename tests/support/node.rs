//! A RabbitMQ node for one test that stops, kills or chokes it.

use std::path::Path;
use std::process::{Command, Stdio};

use super::broker::Broker;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rabbitmq-node.sh");

/// A node of its own folder, ports and name. Killed and removed when dropped, and also when the test process dies.
#[derive(Debug)]
pub struct PrivateNode {
    folder: tempfile::TempDir,
    port: u16,
}

impl PrivateNode {
    /// Starts a node (5 to 20 s).
    ///
    /// # Panics
    /// With the node's log when it does not come up, or when no RabbitMQ is installed.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the node");
        run(folder.path(), "start", &[]).await;
        let port = std::fs::read_to_string(folder.path().join("port")).expect("the node's port");
        Self { port: port.trim().parse().expect("a port"), folder }
    }

    /// Where it answers.
    pub fn broker(&self) -> Broker {
        let port = self.port;
        Broker::at(&format!("amqp://guest:guest@127.0.0.1:{port}"), &format!("http://guest:guest@127.0.0.1:{}", port + 10_000))
    }

    /// The AMQP URL of its default vhost.
    pub fn url(&self) -> String {
        self.broker().url("/")
    }

    /// Ends it in order.
    pub async fn stop(&self) {
        run(self.folder.path(), "stop", &[]).await;
    }

    /// Has it write down which queues it has. To be called after declaring and before [`Self::kill`]: RabbitMQ writes
    /// the names of new quorum queues to disk up to half a second late, and a queue that a kill catches earlier comes
    /// back empty and without a leader, whatever it had confirmed (seen with 3.10.8 and 4.0.5, 8 of 8 times).
    pub async fn flush_declarations(&self) {
        self.ctl(&["-q", "eval", "[dets:sync(Table) || Table <- dets:all()]."]).await;
    }

    /// Ends it as a crash would.
    pub async fn kill(&self) {
        run(self.folder.path(), "kill", &[]).await;
    }

    /// Starts it again, on the same ports, with what it had on disk.
    pub async fn start_again(&self) {
        run(self.folder.path(), "start", &[]).await;
    }

    /// Runs `rabbitmqctl` against it and returns what it printed.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        run(self.folder.path(), "ctl", arguments).await
    }
}

impl Drop for PrivateNode {
    fn drop(&mut self) {
        // `kill` ends the VM, `stop` the port mapper that is left.
        for command in ["kill", "stop"] {
            let _ = script(self.folder.path(), command, &[]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

async fn run(folder: &Path, command: &str, arguments: &[&str]) -> String {
    let mut script = script(folder, command, arguments);
    let what = format!("rabbitmq-node.sh {command} {arguments:?}");
    // On a thread of its own: what the test runs meanwhile has to see the node go and come.
    let output = tokio::task::spawn_blocking(move || script.output()).await.expect("the script's thread").expect("bash");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn script(folder: &Path, command: &str, arguments: &[&str]) -> Command {
    let mut script = Command::new("bash");
    script.arg(SCRIPT).arg(command).arg(folder).args(arguments).stdin(Stdio::null());
    script.env("CALLBACKD_NODE_OWNER", std::process::id().to_string());
    script
}
