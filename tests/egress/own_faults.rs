//! Faults of this machine are not told as those of an endpoint. A process of its own has few files, so that no other test lacks them.

use std::fs::File;
use std::process::Command;

use super::*;

const CHILD: &str = "CALLBACKD_TEST_FEW_FILES";

#[tokio::test]
async fn without_files_left_an_attempt_says_that_this_machine_is_at_fault() {
    if std::env::var_os(CHILD).is_some() {
        return attempt_without_files().await;
    }
    let name = "own_faults::without_files_left_an_attempt_says_that_this_machine_is_at_fault";
    let mut child = Command::new("sh");
    child.args(["-c", r#"ulimit -n 64 && exec "$0" --exact "$1" --nocapture"#]).arg(std::env::current_exe().unwrap()).arg(name);
    let ended = child.env(CHILD, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ended.stderr));
}

async fn attempt_without_files() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let egress = anywhere();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    for host in ["127.0.0.1", "localhost"] {
        let reply = egress.attempt(request(&format!("http://{host}:{port}/")), LONG).await;
        assert_eq!(reply.outcome, Outcome::Failed(Failure::Local), "{host}");
    }
    // With files again, the same client finds what is there.
    drop(files);
    drop(listener);
    assert_eq!(egress.attempt(request(&format!("http://127.0.0.1:{port}/")), LONG).await.outcome, Outcome::Failed(Failure::Connect));
}
