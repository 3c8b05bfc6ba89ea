//! The judges: Python programs beside this file that read JSON and print JSON.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a judge says of what it is given.
///
/// # Panics
/// When it finds the document itself no good, or cannot be run.
pub(crate) fn judged(script: &str, given: &Value) -> Value {
    let python = std::env::var("CALLBACKD_TEST_PYTHON")
        .expect("CALLBACKD_TEST_PYTHON must name a Python interpreter with tests/requirements.txt installed (tests/run.sh makes one)");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specifications").join(script);
    let mut child =
        Command::new(python).arg("-B").arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the judge starts");
    child.stdin.take().expect("a pipe").write_all(given.to_string().as_bytes()).expect("the judge listens");
    let output = child.wait_with_output().expect("the judge ends");
    assert!(output.status.success(), "{script} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).expect("the judge prints JSON")
}

/// Where the packages of `tests/specifications/package.json` are.
///
/// # Panics
/// When nobody says so.
pub(crate) fn node_modules() -> String {
    std::env::var("CALLBACKD_TEST_NODE_MODULES")
        .expect("CALLBACKD_TEST_NODE_MODULES must name the folder into which tests/specifications/package-lock.json was installed (tests/run.sh does it)")
}
