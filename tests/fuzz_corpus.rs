//! Replays the corpus of the fuzz targets, written by hand but for what the fuzzers have found: every input of every target, each within its promises.

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{} breaks a promise", path.display());
        inputs += 1;
    }
    assert!(inputs >= 10, "{name} has only {inputs} inputs");
}

#[test]
fn no_body_breaks_decoding() {
    replay("decode", targets::decode);
}

#[test]
fn no_headers_break_a_copy() {
    replay("headers", targets::headers);
}

#[test]
fn no_text_breaks_the_configuration() {
    replay("configuration", targets::configuration);
}

#[test]
fn no_retry_after_breaks_the_schedule() {
    replay("retry_after", targets::retry_after);
}

#[test]
fn no_letter_breaks_the_tools() {
    replay("dead_letter", targets::dead_letter);
}
