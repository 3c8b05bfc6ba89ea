//! What is linked into the program: only what `.cargo/deny.toml` allows, from where it allows, and nothing that we should not need.
//! `cargo deny check` says the same and more (advisories) where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> toml::Table {
    fs::read_to_string(root().join(".cargo/deny.toml")).expect("the rules").parse().expect("TOML")
}

fn texts(value: &toml::Value, key: Option<&str>) -> BTreeSet<String> {
    let items = value.as_array().expect("a list").iter();
    items.map(|item| key.map_or(item, |key| &item[key]).as_str().expect("a text").to_owned()).collect()
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let cargo =
        Command::new(env!("CARGO")).args(arguments).args(["--locked", "--offline"]).current_dir(root()).output().expect("cargo starts");
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    cargo.stdout
}

/// The packages that are built for the program on Linux, with its build scripts and tests.
fn packages() -> Vec<Value> {
    // What cargo would build; its metadata also lists what optional features could bring in.
    let tree = cargo(&["tree", "--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"]);
    let version = |line: &str| line.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    let built: BTreeSet<Vec<String>> = String::from_utf8(tree).expect("text").lines().map(version).collect();
    let mut metadata: Value = serde_json::from_slice(&cargo(&["metadata", "--format-version", "1"])).expect("metadata");
    let Value::Array(packages) = metadata["packages"].take() else { panic!("no packages") };
    let is_built =
        |package: &Value| built.contains(&vec![name(package).to_owned(), format!("v{}", package["version"].as_str().expect("a version"))]);
    let packages: Vec<Value> = packages.into_iter().filter(is_built).collect();
    assert!(packages.len() > 100 && packages.len() == built.len(), "{} of {}", packages.len(), built.len());
    packages
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

/// Whether a licence expression (SPDX, or the older `A/B`) can be met with what is allowed.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // Without brackets: of each part that must hold, one choice must be allowed. For a choice between conjunctions this asks
    // for more than is needed, never for less.
    let normalized = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    normalized.split(" AND ").all(|part| part.split(" OR ").any(|choice| allowed.contains(choice.trim())))
}

#[test]
fn every_licence_is_an_allowed_one() {
    let allowed = texts(&rules()["licenses"]["allow"], None);
    let refused: BTreeMap<String, String> = packages()
        .iter()
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or("none"), &allowed))
        .map(|package| (name(package).to_owned(), package["license"].to_string()))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(!is_allowed("GPL-3.0", &allowed) && !is_allowed("MIT AND GPL-3.0", &allowed) && is_allowed("GPL-3.0 OR MIT", &allowed));
}

#[test]
fn every_crate_comes_from_the_one_registry() {
    let allowed = texts(&rules()["sources"]["allow-registry"], None);
    for package in packages() {
        let source = package["source"].as_str().map(|source| source.trim_start_matches("registry+").to_owned());
        assert!(source.is_none_or(|source| allowed.contains(&source)), "{}: {}", name(&package), package["source"]);
    }
}

#[test]
fn no_banned_crate_is_built_and_there_is_one_tls_stack() {
    let banned = texts(&rules()["bans"]["deny"], Some("name"));
    let built = packages();
    let found: Vec<&str> = built.iter().map(name).filter(|name| banned.contains(*name)).collect();
    assert!(found.is_empty(), "{found:?}");
    let count = |wanted: &str| built.iter().filter(|package| name(package) == wanted).count();
    assert_eq!((count("rustls"), count("aws-lc-rs"), count("rustls-webpki")), (1, 1, 1), "one version each");
}

#[test]
fn the_unmaintained_crate_is_named_in_one_file_and_its_exception_is_explained() {
    let rules = rules();
    for ignored in rules["advisories"]["ignore"].as_array().expect("a list") {
        assert!(ignored["reason"].as_str().is_some_and(|reason| reason.len() > 40), "{ignored:?}");
    }
    let mut using = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).is_ok_and(|text| text.contains("backoff::")) {
                using.push(path.strip_prefix(root()).expect("below the root").display().to_string());
            }
        }
    }
    assert_eq!(using, ["src/domain/retry.rs"]);
}
