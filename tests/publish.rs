//! Events from files into a real broker, each with proof.

mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use callbackd::broker::{Topology, connect};
use callbackd::cli::CliError;
use callbackd::cli::publish::Publish;
use callbackd::config::Config;
use lapin::ExchangeKind;
use support::{Amqp, Vhost, config_for, parsed};

const SOON: Duration = Duration::from_secs(15);

struct Stage {
    vhost: Vhost,
    config: Config,
    amqp: Amqp,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        let vhost = Vhost::create().await;
        let config = config_for(&vhost);
        let connection = connect(&config.broker, "test").await.expect("a connection");
        Topology::new(&config).declare(&connection, config.broker.timeout).await.expect("declared");
        let amqp = vhost.connect().await;
        Self { vhost, config, amqp, folder: tempfile::tempdir().expect("a folder") }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{:08x}.json", fastrand::u32(..)));
        std::fs::write(&path, text).expect("a file of events");
        path
    }

    async fn run(&self, arguments: &[&str]) -> (String, Result<(), CliError>) {
        let mut out = Vec::new();
        let result = parsed::<Publish>(arguments).run_to(&self.config, &mut out).await;
        (String::from_utf8(out).expect("text"), result)
    }
}

#[tokio::test]
async fn an_event_arrives_with_its_properties_and_its_bytes() {
    let stage = Stage::set().await;
    let file = stage.file(
        r#"{"properties":{"message_id":"evt-1","type":"identResult","timestamp":7,"headers":{"integrator":"acme"}},"body":{ "a" : 1e400 }}
           {"b":2}"#,
    );
    let (out, result) = stage.run(&["--source", "ident", &file.to_string_lossy()]).await;
    result.expect("published");
    assert_eq!(out, "published 2, failed 0\n");
    let mut arrived = stage.amqp.drain_when("callbacks.ident", 2, SOON).await;
    arrived.sort_by_key(|message| message.body.len());
    assert_eq!(arrived[0].body, br#"{"b":2}"#);
    assert_eq!((arrived[0].exchange.as_str(), arrived[0].routing_key.as_str()), ("ident.events", "ident"));
    assert_eq!(arrived[1].body, br#"{ "a" : 1e400 }"#);
    assert_eq!(arrived[1].routing_key, "identResult");
    let properties = &arrived[1].properties;
    assert_eq!(properties.message_id().as_ref().map(ToString::to_string), Some("evt-1".to_owned()));
    assert_eq!(properties.kind().as_ref().map(ToString::to_string), Some("identResult".to_owned()));
    assert_eq!((*properties.timestamp(), *properties.delivery_mode()), (Some(7), Some(2)));
    assert_eq!(arrived[1].header("integrator"), Some("acme".to_owned()));
}

#[tokio::test]
async fn with_several_sources_one_must_be_named() {
    let stage = Stage::set().await;
    let file = stage.file("{}");
    let (_, result) = stage.run(&[&file.to_string_lossy()]).await;
    assert!(matches!(&result, Err(CliError::Usage(text)) if text.contains("compliance, ident")), "{result:?}");
    let (_, result) = stage.run(&["--source", "idnet", &file.to_string_lossy()]).await;
    assert!(matches!(result, Err(CliError::Usage(_))));
}

#[tokio::test]
async fn what_no_queue_takes_has_failed_and_is_counted() {
    let stage = Stage::set().await;
    stage.amqp.declare_exchange("picky", ExchangeKind::Direct).await;
    let file = stage.file("{}{}{}");
    let (out, result) = stage.run(&["--exchange", "picky", "--routing-key", "nowhere", &file.to_string_lossy()]).await;
    assert_eq!(out, "published 0, failed 3\n");
    assert!(matches!(result, Err(CliError::Failed(text)) if text == "3 events were not published"));
    let (out, result) = stage.run(&["--exchange", "absent", "--routing-key", "nowhere", &file.to_string_lossy()]).await;
    assert_eq!(out, "published 0, failed 3\n");
    assert!(result.is_err());
}

#[tokio::test]
async fn a_broken_file_fails_after_what_stands_before_the_fault() {
    let stage = Stage::set().await;
    let file = stage.file("{\"a\":1}\n{\"b\":}");
    let (out, result) = stage.run(&["--source", "ident", &file.to_string_lossy()]).await;
    assert_eq!(out, "published 1, failed 0\n");
    assert!(matches!(&result, Err(CliError::Failed(text)) if text.contains("document 2 is not JSON: line 2")), "{result:?}");
    let (_, result) = stage.run(&["--source", "ident", "no-such-file.json"]).await;
    assert!(matches!(&result, Err(CliError::Failed(text)) if text.starts_with("no-such-file.json: cannot read")), "{result:?}");
}

#[tokio::test]
async fn repeats_at_the_rate_that_was_asked_for() {
    let stage = Stage::set().await;
    let file = stage.file("{\"id\":\"evt-1\"}");
    let start = Instant::now();
    let (out, result) = stage.run(&["--source", "ident", "--repeat", "51", "--rate", "100/s", &file.to_string_lossy()]).await;
    result.expect("published");
    assert_eq!(out, "published 51, failed 0\n");
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    let arrived = stage.amqp.drain_when("callbacks.ident", 51, SOON).await;
    assert!(arrived.iter().all(|message| message.body == b"{\"id\":\"evt-1\"}"));
    let (_, result) = stage.run(&["--source", "ident", "--repeat", "2", "-"]).await;
    assert!(matches!(result, Err(CliError::Usage(_))));
}

#[tokio::test]
async fn an_event_from_a_pipe_goes_out_while_the_pipe_is_open() {
    let stage = Stage::set().await;
    let config = stage.folder.path().join("callbackd.toml");
    let source = "[[source]]\nname = \"ident\"\nexchange = \"ident.events\"\n";
    std::fs::write(&config, format!("[broker]\nurl = \"{}\"\n{source}", stage.vhost.url())).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
    command.arg("--config").arg(&config).args(["publish", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut publishing = command.spawn().expect("the program");
    let mut pipe = publishing.stdin.take().expect("its standard input");
    for body in ["{\"a\":1}", "{\"b\":2}"] {
        pipe.write_all(body.as_bytes()).expect("it reads");
        let arrived = stage.amqp.drain_when("callbacks.ident", 1, SOON).await;
        assert_eq!(arrived[0].body, body.as_bytes());
    }
    assert!(publishing.try_wait().expect("a process").is_none(), "it ended before the pipe did");
    drop(pipe);
    let output = tokio::task::spawn_blocking(|| publishing.wait_with_output()).await.expect("a thread").expect("a process");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "published 2, failed 0\n");
}

/// Figures for the documentation: `cargo test --test publish -- --ignored --nocapture how_fast`.
#[tokio::test]
#[ignore = "measures"]
async fn how_fast_it_is() {
    let stage = Stage::set().await;
    let file = stage.file(&format!("{{\"id\":\"evt-1\",\"filler\":\"{}\"}}", "x".repeat(300)));
    let start = Instant::now();
    let (out, _) = stage.run(&["--source", "ident", "--repeat", "20000", &file.to_string_lossy()]).await;
    println!("{} {:.0}/s", out.trim(), 20_000.0 / start.elapsed().as_secs_f64());
}
