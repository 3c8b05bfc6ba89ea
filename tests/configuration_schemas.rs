//! The JSON Schemas of both configuration files, as another program reads them: what we ship and what the program takes is good by
//! them, and of what it refuses they see the most.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeMap;
use std::path::Path;

use callbackd::config::{self, Egress, Environment};
use callbackd::domain::policy::DeliveryPolicy;
use serde_json::json;

#[path = "specifications/judge.rs"]
#[allow(dead_code, reason = "shared with another test")]
mod judge;

/// What the schema of a kind of file finds wrong with each of these.
fn faults(kind: &str, files: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/schemas/{kind}.schema.json"));
    serde_json::from_value(judge::judged("configuration.py", &json!({"schema": schema, "files": files}))).unwrap()
}

/// Files by what stands in them.
fn texts<const N: usize>(texts: [&str; N]) -> BTreeMap<String, String> {
    texts.map(|text| (text.to_owned(), text.to_owned())).into()
}

/// Files of the repository.
fn files(names: &[&str]) -> BTreeMap<String, String> {
    let read = |name: &&str| ((*name).to_owned(), std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap());
    names.iter().map(read).collect()
}

fn is_good_configuration(text: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callbackd.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&file, []).is_ok()
}

fn are_good_integrators(text: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("integrators.toml");
    std::fs::write(&file, text).unwrap();
    config::load_directory(&file, None, &DeliveryPolicy::default(), &Egress::default(), &Environment::default()).is_ok()
}

#[test]
fn the_files_that_come_with_callbackd_are_good_by_the_schemas() {
    for (kind, names) in [
        ("callbackd", ["deploy/callbackd.example.toml", "deploy/compose/callbackd.toml"]),
        ("integrators", ["deploy/integrators.example.toml", "deploy/compose/integrators.toml"]),
    ] {
        let found = faults(kind, &files(&names));
        assert_eq!(found.len(), 2);
        assert!(found.values().all(Vec::is_empty), "{found:#?}");
    }
}

/// A configuration with what is least needed, and more.
fn configuration(more: &str) -> String {
    format!("broker.url = 'amqp://h'\n{more}\n[[source]]\nname = 'a'\nexchange = 'e'\n")
}

#[test]
fn what_the_program_takes_as_a_configuration_the_schema_takes_too() {
    let good = [
        "",
        "[worker]\nmax_body = 7\nmax_bytes_in_flight = '1GiB'",
        "[worker]\nmax_body = '100B'\nstop_timeout = '0s'",
        "[delivery]\nrate = '100000/h'\nretry.multiplier = 3\nretry.jitter = 0",
        "[egress]\nports = 'any'\nproxy = 'socks5h://p:1080'\nallow_cidrs = ['10.0.0.0/8']",
        "[egress]\nports = [1, 65535]\nproxy = false",
        "[admin]\nlisten = '[::1]:0'\ntoken = [{ name = 'a-B_9', secret = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }]",
        "[log]\nformat = 'human'\nlevel = 'info,lapin=warn'",
        "[integrators]\nfile = '/etc/x.toml'\nsecrets_dir = 's'",
        "broker.names.dead = 'ü'",
    ]
    .map(configuration);
    let files: BTreeMap<String, String> = good.map(|text| (text.clone(), text)).into();
    for text in files.keys() {
        assert!(is_good_configuration(text), "{text}");
    }
    let found = faults("callbackd", &files);
    assert!(found.values().all(Vec::is_empty), "{found:#?}");
}

#[test]
fn of_a_wrong_configuration_the_schema_sees_keys_kinds_and_ranges() {
    let bad = [
        "limit = 3",
        "[worker]\nmax_bodi = '1MiB'",
        "[worker]\nmax_body = '1MB'",
        "[worker]\nmax_body = -1",
        "[worker]\nstop_timeout = 25",
        "[worker]\nstop_timeout = '1h30m'",
        "[delivery]\nrate = 50",
        "[delivery]\nmax_in_flight = 0",
        "[delivery]\nretry = '1s'",
        "[delivery]\nretry.jitter = 1.5",
        "[egress]\nports = []",
        "[egress]\nports = ['443']",
        "[egress]\nproxy = true",
        "[egress]\nallow_http = 'yes'",
        "[admin.token]\nname = 'x'",
        "[log]\nformat = 'xml'",
        "broker.publish_channels = 65",
        "broker.password = { env = 'A' }",
    ]
    .map(configuration);
    let files: BTreeMap<String, String> = bad.map(|text| (text.clone(), text)).into();
    for text in files.keys() {
        assert!(!is_good_configuration(text), "{text}");
    }
    let found = faults("callbackd", &files);
    let passed: Vec<_> = found.iter().filter(|(_, faults)| faults.is_empty()).collect();
    assert!(passed.is_empty() && found.len() == 18, "{passed:#?}");
}

#[test]
fn integrators_are_judged_by_their_schema_as_by_the_program() {
    let good = texts([
        "",
        "[[integrator]]\nkey = 'CUS 1 ü'\nendpoint = [{ id = 'm', url = 'https://a.example/x' }]",
        "[[integrator]]\nkey = 'a'\n[[integrator.endpoint]]\nid = 'm'\nurl = 'https://a.example/x'\nheaders = { x-any = 'v' }\nretry.max_attempts = 1",
        "[[integrator]]\nkey = 'a'\n[[integrator.endpoint]]\nid = 'm'\nurl = 'https://a.example/x'\nauth.basic = { username = 'u', password = 'p' }\nformat = 'topic'\ntopics = ['new']",
    ]);
    let bad = texts([
        "integrator = 3",
        "[[integrators]]\nkey = 'a'",
        "[[integrator]]\nkey = 'a'",
        "[[integrator]]\nendpoint = [{ id = 'm', url = 'https://a.example/x' }]",
        "[[integrator]]\nkey = 7\nendpoint = [{ id = 'm', url = 'https://a.example/x' }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm m', url = 'https://a.example/x' }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm' }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm', url = 'https://a.example/x', formt = 'topic' }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm', url = 'https://a.example/x', format = 'Topic' }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm', url = 'https://a.example/x', signing_secrets = [{ environment = 'A' }] }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm', url = 'https://a.example/x', headers = { x-a = 7 } }]",
        "[[integrator]]\nkey = 'a'\nendpoint = [{ id = 'm', url = 'https://a.example/x', auth.oauth2 = { client_id = 'a' } }]",
    ]);
    for (text, expected) in good.keys().map(|text| (text, true)).chain(bad.keys().map(|text| (text, false))) {
        assert_eq!(are_good_integrators(text), expected, "{text}");
    }
    let (of_good, of_bad) = (faults("integrators", &good), faults("integrators", &bad));
    assert!(of_good.values().all(Vec::is_empty), "{of_good:#?}");
    assert!(of_bad.values().all(|faults| !faults.is_empty()) && of_bad.len() == 12, "{of_bad:#?}");
}
