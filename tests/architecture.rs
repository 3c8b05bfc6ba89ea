//! The rules of the house that a compiler does not check.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty(), "no sources under {under}");
    files
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

#[test]
fn the_core_is_pure() {
    const FORBIDDEN: [&str; 16] = [
        "async ",
        ".await",
        "tokio",
        "lapin",
        "reqwest",
        "axum",
        "prometheus",
        "tracing",
        "SystemTime::now",
        "Instant::now",
        "clock::now",
        "fastrand",
        "rand::",
        "std::env",
        "std::fs",
        "std::net",
    ];
    for (path, text) in sources("src/domain") {
        // A test may take the time from where it wants.
        for line in code(&text).take_while(|line| *line != "#[cfg(test)]") {
            for word in FORBIDDEN {
                assert!(!line.contains(word), "{}: the core must not use `{word}`: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_crates_backoff_and_governor_stay_where_they_are() {
    for (path, text) in sources("src") {
        let governors = &["domain/pace.rs", "admin/access.rs", "admin/api/mod.rs", "live.rs"][..];
        for (name, files) in [("backoff::", &["domain/retry.rs"][..]), ("governor::", governors)] {
            let uses = code(&text).any(|line| line.contains(name));
            assert!(!uses || files.iter().any(|file| path.ends_with(file)), "{} uses {name}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        assert!(text.starts_with("//!"), "{} does not open with a //! line", path.display());
        if path.ends_with("tests.rs") || path.strip_prefix(env!("CARGO_MANIFEST_DIR")).is_ok_and(|path| path.starts_with("tests")) {
            continue;
        }
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        assert!(lines <= 450, "{} has {lines} lines before its tests: which two nouns live in it?", path.display());
    }
}

#[test]
fn the_environment_is_read_in_few_places() {
    const ALLOWED: [&str; 4] = ["config/environment.rs", "telemetry/logging.rs", "cli/receive.rs", "src/main.rs"];
    for (path, text) in sources("src") {
        let reads = code(&text).any(|line| line.contains("env::var") || line.contains("env::vars"));
        assert!(!reads || ALLOWED.iter().any(|allowed| path.ends_with(allowed)), "{} reads the environment", path.display());
    }
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(file!());
    for (path, text) in sources("src").into_iter().chain(sources("tests")).filter(|(path, _)| *path != own) {
        for word in ["/work/", "/root/", "todo!(", "unimplemented!("] {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}
