//! The configuration from real files: everything that is wrong is told at once, secrets are never told, and a new version
//! of the integrators comes into force.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use callbackd::config::reload::watch_directory;
use callbackd::config::{Config, Egress, Environment, Ports, Problems, load, load_all, load_directory};
use callbackd::domain::auth::{Auth, ClientAuth};
use callbackd::domain::circuit::CircuitPolicy;
use callbackd::domain::integrator::{Directory, Endpoint, Topics};
use callbackd::domain::names::IntegratorKey;
use callbackd::domain::policy::{BatchLimits, DeliveryPolicy, Rate};
use callbackd::telemetry::Telemetry;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A valid configuration that says no more than it must.
const LEAST: &str = "[broker]\nurl = 'amqp://h'\n[[source]]\nname = 'a'\nexchange = 'a.events'\n";

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The lines of problems, without the folder.
    fn lines(&self, problems: &Problems) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        problems.lines().iter().map(|line| line.replace(&folder, "")).collect()
    }

    fn config(&self, text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let path = self.write("callbackd.toml", text);
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(&path, variables).map_err(|problems| self.lines(&problems))
    }

    fn directory(&self, text: &str, variables: &[(&str, &str)]) -> Result<Directory, Vec<String>> {
        let path = self.write("integrators.toml", text);
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load_directory(&path, None, &DeliveryPolicy::default(), &public(), &environment).map_err(|problems| self.lines(&problems))
    }
}

fn public() -> Egress {
    Egress::default()
}

fn endpoints<'d>(directory: &'d Directory, key: &str) -> &'d [Arc<Endpoint>] {
    directory.endpoints(&IntegratorKey::try_new(key).unwrap()).unwrap_or_default()
}

#[test]
fn the_least_configuration_has_defaults() {
    let folder = Folder::new();
    let config = folder.config(LEAST, &[]).unwrap();
    assert_eq!(config.sources[0].queue, "callbacks.a");
    assert_eq!(config.sources[0].due_queue(), "callbacks.a.due");
    assert_eq!(config.broker.names.dead, "callbacks.dead");
    assert_eq!(config.integrators_file, folder.path("integrators.toml"));
    assert_eq!(config.ladder.rungs().count(), 59);
}

/// Something wrong in every section.
const BAD_CONFIG: &str = r#"
[broker]
url = "http://user:CANARY@h/"
declare = "yes"
prefix = "amq.mine"
heartbeat = "1500ms"
timeout = "10"
publish_channels = 65
[broker.names]
dead = ""
[[source]]
name = "a b"
exchange = ""
prefetch = 0
[[source]]
name = "b"
exchange = "b.events"
binding = 7
[[source]]
name = "b"
exchange = "b.events"
queue = "other"
[wait]
shortest = "2h"
longest = "1h"
[worker]
max_body = "16MB"
max_bytes_in_flight = "1KiB"
stop_timeout = 25
[dead]
retention = "0s"
[delivery]
timeot = "15s"
max_in_flight = 1001
rate = "50"
batch = { max_events = 0, max_wait = "61s", max_bytes = "17MiB", max_age = 1 }
circuit = { consecutive = 0, failure_rate = 0, window = "100ms", initial_wait = "20m", max_wait = "2d" }
retry = { initial = "7h", multiplier = 0.5, jitter = 2, max_attempts = 0, max_tries = 3 }
[egress]
allow_http = 1
allow_private_networks = ["10.0.0.0/8"]
allow_cidrs = ["10.0.0.1/8"]
ports = [0]
[admin]
listen = "localhost"
[log]
format = "xml"
level = "info,=loud=now"
[integratrs]
file = "x"
"#;

#[test]
fn everything_that_is_wrong_with_a_configuration_is_told_at_once() {
    let expected = [
        "broker.url: is no AMQP URL; write for example amqp://user:password@rabbitmq:5672/%2f",
        "broker.prefix: starts with `amq.`, which the broker keeps for itself",
        "broker.names.dead: is empty",
        "broker.declare: a text is no true or false",
        "broker.heartbeat: AMQP counts heartbeats in whole seconds",
        r#"broker.timeout: "10" is no duration; write for example "15s" (units: ms, s, m, h, d)"#,
        "broker.publish_channels: 65 is out of range; write 1 to 64",
        r#"source[0].name: "a b" has other characters than letters, digits, _ and -"#,
        "source[0].exchange: is empty",
        "source[0].prefetch: 0 is out of range; write 1 to 65535",
        "source[1].binding: 7 is no text; put it in quotes",
        r#"source[2].name: "b" stands there twice"#,
        "wait: the longest wait is shorter than the shortest",
        r#"worker.max_body: "16MB" is no size; write for example "16MiB" (units: B, KiB, MiB, GiB) or a number of bytes"#,
        r#"worker.max_bytes_in_flight: "1KiB" is out of range; write "1MiB" to "1024GiB""#,
        r#"worker.stop_timeout: 25 is no duration; write for example "15s" (units: ms, s, m, h, d)"#,
        r#"dead.retention: "0s" is out of range; write "1s" to "365d""#,
        "delivery.max_in_flight: 1001 is out of range; write 1 to 1000",
        r#"delivery.rate: "50" is no rate; write for example "50/s" (units: s, m, h)"#,
        "delivery.batch.max_events: 0 is out of range; write 1 to 1000",
        r#"delivery.batch.max_wait: "61s" is out of range; write "0s" to "1m""#,
        r#"delivery.batch.max_bytes: "17MiB" is out of range; write "1B" to "16MiB""#,
        "delivery.batch.max_age: unknown key; known here: max_events, max_wait, max_bytes",
        "delivery.circuit.consecutive: 0 is out of range; write 1 to 10000",
        "delivery.circuit.failure_rate: 0 is out of range; write 0.01 to 1",
        r#"delivery.circuit.window: "100ms" is out of range; write "1s" to "1h""#,
        r#"delivery.circuit.max_wait: "2d" is out of range; write "100ms" to "1d""#,
        "delivery.circuit.initial_wait: is longer than max_wait",
        "delivery.retry.multiplier: 0.5 is out of range; write 1 to 100",
        "delivery.retry.jitter: 2 is out of range; write 0 to 1",
        "delivery.retry.max_attempts: 0 is out of range; write 1 to 100000",
        "delivery.retry.initial: is longer than max_delay",
        "delivery.retry.max_tries: unknown key; known here: initial, multiplier, max_delay, max_age, jitter, max_attempts, max_retry_after",
        "delivery.timeot: unknown key; did you mean `timeout`?",
        "egress.allow_http: 1 is no true or false",
        "egress.allow_private_networks: is true or false; write a list of networks under allow_cidrs",
        r#"egress.allow_cidrs[0]: "10.0.0.1/8" has an address within a network; write "10.0.0.0/8""#,
        "egress.ports: 0 is no port; write 1 to 65535",
        r#"admin.listen: "localhost" is no address with a port; write for example "127.0.0.1:9464""#,
        r#"log.format: "xml" is not known; write "auto" or "human" or "json""#,
        r#"log.level: "info,=loud=now" is no filter; write for example "info" or "info,lapin=warn""#,
        "integratrs: unknown key; did you mean `integrators`?",
    ];
    let expected: Vec<String> = expected.iter().map(|line| format!("callbackd.toml: {line}")).collect();
    assert_eq!(Folder::new().config(BAD_CONFIG, &[]).unwrap_err(), expected);
}

#[test]
fn the_problems_of_both_files_are_told_at_once() {
    let folder = Folder::new();
    let refused = |text: &str| {
        let path = folder.write("callbackd.toml", text);
        folder.lines(&load_all(&path).unwrap_err())
    };
    folder.write("others.toml", "[[integrator]]\nkey = 'acme'\n[[integrator.endpoint]]\nid = 'main'\nurl = 'http://a.example/'\n");
    let http = r#"others.toml: integrator["acme"].endpoint["main"].url: must start with https:// (http:// is refused unless [egress] allow_http = true)"#;
    let other = "[integrators]\nfile = 'others.toml'\n";
    assert_eq!(refused(&format!("{LEAST}{other}")), [http]);
    assert_eq!(
        refused(&format!("{LEAST}{other}[log]\nformat = 7\n[delivery.retry]\ninitial = '7h'\n")),
        [
            "callbackd.toml: delivery.retry.initial: is longer than max_delay",
            "callbackd.toml: log.format: 7 is no text; put it in quotes",
            http,
        ]
    );
    // What is good in the first file counts for the second.
    let allowed = format!("{LEAST}{other}[egress]\nallow_http = true\n[log]\nformat = 7\n");
    assert_eq!(refused(&allowed), ["callbackd.toml: log.format: 7 is no text; put it in quotes"]);
    // Where the second file is cannot be known.
    assert_eq!(refused(&format!("{LEAST}[integrators]\nfile = 7\n")), ["callbackd.toml: integrators.file: 7 is no text; put it in quotes"]);
    assert_eq!(refused("x").len(), 1);
}

#[test]
fn an_override_that_is_not_utf_8_is_named_by_the_program() {
    use std::os::unix::ffi::OsStringExt as _;
    let folder = Folder::new();
    let path = folder.write("callbackd.toml", LEAST);
    folder.write("integrators.toml", "");
    let check = |value: &[u8]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_callbackd"));
        command.args(["check", "--config"]).arg(&path).env("CALLBACKD__BROKER__URL", std::ffi::OsString::from_vec(value.to_vec()));
        command.output().unwrap()
    };
    assert!(check(b"amqp://h").status.success());
    let refused = check(b"amqp://CANARY\xff@h");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(
        (refused.status.code(), told.contains("\nCALLBACKD__BROKER__URL: is not UTF-8"), told.contains("CANARY")),
        (Some(64), true, false),
        "{told}"
    );
}

#[test]
fn an_empty_configuration_says_what_is_needed() {
    assert_eq!(
        Folder::new().config("", &[]).unwrap_err(),
        [
            "callbackd.toml: broker.url: is missing",
            "callbackd.toml: source: is missing; write at least one [[source]] with a name and an exchange",
        ]
    );
    let problems = load(Path::new("none/callbackd.toml"), []).unwrap_err();
    assert_eq!(problems.lines(), ["none/callbackd.toml: cannot be read: No such file or directory (os error 2)"]);
}

#[test]
fn a_syntax_error_names_its_line_and_shows_nothing_of_it() {
    let problems = Folder::new().config("[broker]\nurl = 'amqp://u:CANARY@h'\npassword = CANARY\n", &[]).unwrap_err();
    assert_eq!(problems, ["callbackd.toml: line 3, column 12: string values must be quoted, expected literal string"]);
}

#[test]
fn names_that_two_things_on_the_broker_would_share_are_refused() {
    let text = r#"
[broker]
url = "amqp://h"
names = { route = "x", publish = "x", dead = "c.due" }
[[source]]
name = "a"
exchange = "x"
queue = "c"
[[source]]
name = "b"
exchange = "b.events"
queue = "c.wait.1s"
"#;
    let outcomes = ("CALLBACKD__OUTCOMES__EXCHANGE", "b.events");
    assert_eq!(
        Folder::new().config(text, &[outcomes]).unwrap_err(),
        [
            r#"callbackd.toml: source["a"].queue: the queue "c.due" is also that of broker.names.dead"#,
            r#"callbackd.toml: source["b"].queue: the queue "c.wait.1s" is also that of source["a"].queue"#,
            r#"callbackd.toml: broker.names.route: the exchange "x" is also that of source["a"].exchange"#,
            r#"callbackd.toml: broker.names.publish: the exchange "x" is also that of broker.names.route"#,
            r#"CALLBACKD__OUTCOMES__EXCHANGE: outcomes.exchange: the exchange "b.events" is also that of source["b"].exchange"#,
        ]
    );
}

#[test]
fn variables_override_every_kind_of_key() {
    let variables = [
        ("CALLBACKD__BROKER__URL", "amqp://user:CANARY@rabbit:5673/v"),
        ("CALLBACKD__BROKER__DECLARE", "false"),
        ("CALLBACKD__SOURCE__0__PREFETCH", "7"),
        ("CALLBACKD__SOURCE__1__NAME", "2"),
        ("CALLBACKD__SOURCE__1__EXCHANGE", "true"),
        ("CALLBACKD__DELIVERY__RETRY__MULTIPLIER", "3"),
        ("CALLBACKD__DELIVERY__TIMEOUT", "5s"),
        ("CALLBACKD__WORKER__MAX_BODY", "1024"),
        ("CALLBACKD__WORKER__MAX_BYTES_IN_FLIGHT", "1MiB"),
        ("CALLBACKD__EGRESS__ALLOW_CIDRS", "['10.0.0.0/8']"),
        ("CALLBACKD__EGRESS__PORTS", "any"),
        ("CALLBACKD__EGRESS__PROXY", "socks5h://user:CANARY@proxy.example:1080"),
    ];
    let config = Folder::new().config(LEAST, &variables).unwrap();
    assert_eq!(config.broker.url.expose(), "amqp://user:CANARY@rabbit:5673/v");
    assert!(!config.broker.declare);
    assert_eq!((config.sources[0].prefetch.get(), config.sources[1].name.as_str()), (7, "2"));
    assert_eq!(config.sources[1].exchange, "true");
    assert_eq!(config.delivery.retry.multiplier, 3.0);
    assert_eq!(config.delivery.timeout, Duration::from_secs(5));
    assert_eq!((config.worker.max_body, config.worker.max_bytes_in_flight), (1024, 1 << 20));
    assert_eq!(config.egress.allow_cidrs, vec!["10.0.0.0/8".parse().unwrap()]);
    assert_eq!((config.egress.ports.clone(), config.egress.own.len()), (Ports::Any, 3));
    assert_eq!(config.egress.proxy.as_ref().unwrap().to_string(), "socks5h://proxy.example:1080");
    assert!(!format!("{config:?}").contains("CANARY"));
}

#[test]
fn a_wrong_variable_is_named_and_a_secret_in_it_is_not_shown() {
    let variables = [
        ("CALLBACKD__BROKER__URL", "http://CANARY"),
        ("CALLBACKD__BROKER__PASSWORD", "CANARY"),
        ("CALLBACKD__DELIVERY__TIMEOUT", "15"),
        ("CALLBACKD__SOURCE__2__NAME", "CANARY"),
    ];
    assert_eq!(
        Folder::new().config(LEAST, &variables).unwrap_err(),
        [
            "CALLBACKD__SOURCE__2__NAME: there is no source[2]; the next that can be made is source[1]",
            "CALLBACKD__BROKER__URL: broker.url: is no AMQP URL; write for example amqp://user:password@rabbitmq:5672/%2f",
            "CALLBACKD__BROKER__PASSWORD: broker.password: unknown key; known here: \
             url, prefix, names, declare, heartbeat, timeout, publish_channels",
            "CALLBACKD__DELIVERY__TIMEOUT: delivery.timeout: \"15\" is no duration; write for example \"15s\" (units: ms, s, m, h, d)",
        ]
    );
}

#[test]
fn an_endpoint_takes_the_defaults_and_changes_some() {
    let folder = Folder::new();
    folder.write("signing", &format!("{SECRET}\n"));
    let text = format!(
        r#"
[[integrator]]
key = "Concedus+Q000020AA+14"
[[integrator.endpoint]]
id = "main"
url = "https://acme.example/hook/CANARY?token=CANARY"
format = "topic"
topics = ["complianceRecord", "identResultKYC"]
signing_secrets = ["{SECRET}", {{ env = "SIGNING" }}, {{ file = "signing" }}]
headers = {{ X-Acme-Signature = {{ env = "STATIC" }}, authorization = "Bearer CANARY" }}
timeout = "1s"
retry = {{ max_age = "1h" }}
[[integrator.endpoint]]
id = "second"
url = "https://acme.example/"
"#
    );
    let directory = folder.directory(&text, &[("SIGNING", SECRET), ("STATIC", "CANARY")]).unwrap();
    let [main, second] = endpoints(&directory, "Concedus+Q000020AA+14") else { panic!("{directory:?}") };
    assert_eq!(main.signing.len(), 3);
    assert_eq!(main.headers["x-acme-signature"], "CANARY");
    assert!(main.headers.values().all(http::HeaderValue::is_sensitive));
    assert!(matches!(&main.topics, Topics::Named(topics) if topics.len() == 2));
    let defaults = DeliveryPolicy::default();
    assert_eq!((main.policy.timeout, main.policy.max_in_flight), (Duration::from_secs(1), defaults.max_in_flight));
    assert_eq!((main.policy.retry.max_age, main.policy.retry.max_delay), (Duration::from_secs(3600), defaults.retry.max_delay));
    assert_eq!((&second.topics, second.policy), (&Topics::All, defaults));
    assert!(!format!("{directory:?}").contains("CANARY"));
}

#[test]
fn an_endpoint_changes_single_keys_of_its_pace_its_batches_and_its_circuit() {
    let folder = Folder::new();
    let per_second = |requests| Rate { requests: NonZeroU32::new(requests).unwrap(), per: Duration::from_secs(1) };
    let delivery = "[delivery]\nrate = '50/s'\nbatch = { max_events = 10 }\ncircuit = { consecutive = 3, initial_wait = '1s' }\n";
    let config = folder.config(&format!("{LEAST}{delivery}"), &[("CALLBACKD__DELIVERY__CIRCUIT__WINDOW", "30s")]).unwrap();
    let defaults = DeliveryPolicy::default();
    assert_eq!(config.delivery.rate, Some(per_second(50)));
    assert_eq!(config.delivery.batch, BatchLimits { max_events: NonZeroU16::new(10).unwrap(), ..defaults.batch });
    assert_eq!((config.delivery.circuit.consecutive.get(), config.delivery.circuit.window), (3, Duration::from_secs(30)));

    let endpoints_text = "[[integrator.endpoint]]\nid = 'one'\nurl = 'https://a.example/'\nrate = '600/m'\nbatch = { max_wait = '20ms' }\n\
        circuit = { max_wait = '1m' }\n[[integrator.endpoint]]\nid = 'two'\nurl = 'https://a.example/'\n";
    let path = folder.write("integrators.toml", &format!("[[integrator]]\nkey = 'a'\n{endpoints_text}"));
    let directory = load_directory(&path, None, &config.delivery, &public(), &Environment::default()).unwrap();
    let [one, two] = endpoints(&directory, "a") else { panic!("{directory:?}") };
    assert_eq!(two.policy, config.delivery);
    assert_eq!(one.policy.rate, Some(Rate { requests: NonZeroU32::new(600).unwrap(), per: Duration::from_secs(60) }));
    assert_eq!(one.policy.batch, BatchLimits { max_wait: Duration::from_millis(20), ..config.delivery.batch });
    assert_eq!(one.policy.circuit, CircuitPolicy { max_wait: Duration::from_secs(60), ..config.delivery.circuit });
    assert_eq!(one.policy.retry, defaults.retry);
}

/// Everything that can be wrong with an endpoint, with secrets wherever they may be written.
const BAD_INTEGRATORS: &str = r#"
[[integrator]]
key = "acme"
[[integrator.endpoint]]
id = "main"
url = "http://acme.example/CANARY"
format = "json"
topics = []
signing_secrets = ["CANARY", { env = "CANARY_BAD" }, { env = "NONE" }, { file = "none" }, { file = "secret" }, 7]
headers = { host = "CANARY", "a b" = "CANARY", x-a = "CANARY\r\nx-b: CANARY", x-c = { file = "secret" }, x-d = " CANARY", x-e = "CANARY", X-E = "CANARY", proxy-x = "CANARY", webhook-id = "CANARY", callback-x = "CANARY", Te = "CANARY", x-n = 1234567 }
max_in_flight = 0
[[integrator.endpoint]]
id = "main"
url = "https://u:CANARY@acme.example/"
[[integrator.endpoint]]
id = "no/id"
url = 7
topics = ["a", "a"]
[[integrator]]
key = "acme"
endpoints = []
endpoint = []
[[integrator]]
endpoint = [{ topics = ["identResult"], signing_secret = "CANARY", url = "https://acme.example/" }]
[[integrator]]
key = "globex"
[[integrators]]
key = "CANARY"
"#;

#[test]
fn everything_that_is_wrong_with_integrators_is_told_at_once_and_no_secret_is() {
    let folder = Folder::new();
    folder.write("secret", "CANARY\nCANARY");
    let secret_forms = r#"is no secret; write a text, { env = "NAME" } or { file = "path" }"#;
    let header = |name: &str, what: &str| format!(r#"integrator["acme"].endpoint["main"].headers.{name}: {what}"#);
    let signing = |index: u8, what: &str| format!(r#"integrator["acme"].endpoint["main"].signing_secrets[{index}]: {what}"#);
    let ours = "this header is set by the delivery itself";
    let expected = [
        r#"integrator["acme"].endpoint["main"].url: must start with https:// (http:// is refused unless [egress] allow_http = true)"#.into(),
        r#"integrator["acme"].endpoint["main"].format: "json" is not known; write "classic" or "topic""#.into(),
        r#"integrator["acme"].endpoint["main"].topics: names none; leave the key out for all that the format can carry"#.into(),
        signing(0, "starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)"),
        signing(1, "starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)"),
        signing(2, "the environment variable NONE is not set (or is not UTF-8)"),
        signing(3, r#"the file "none" cannot be read: No such file or directory (os error 2)"#),
        signing(4, "starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)"),
        signing(5, secret_forms),
        header("Te", ours),
        header("\"a b\"", "is no name of a header"),
        header("callback-x", ours),
        header("host", ours),
        header("proxy-x", ours),
        header("webhook-id", ours),
        header("x-a", "has a control or non-ASCII character"),
        header("x-c", "has a control or non-ASCII character"),
        header("x-d", "has a space, tab or line break at an end, which HTTP would lose"),
        header("x-e", "stands there twice (capitals make no other header)"),
        header("x-n", secret_forms),
        r#"integrator["acme"].endpoint["main"].max_in_flight: 0 is out of range; write 1 to 1000"#.into(),
        r#"integrator["acme"].endpoint[1].id: "main" stands there twice"#.into(),
        r#"integrator["acme"].endpoint[1].url: must not hold a user name or password; use `auth`"#.into(),
        r#"integrator["acme"].endpoint[2].id: "no/id" has other characters than letters, digits, _ and -"#.into(),
        r#"integrator["acme"].endpoint[2].url: 7 is no text; put it in quotes"#.into(),
        r#"integrator["acme"].endpoint[2].topics: names a topic twice"#.into(),
        r#"integrator["acme"].endpoint[2].topics: the classic format carries complianceRecord alone, so this endpoint would be told nothing; write format = "topic""#.into(),
        r#"integrator[1].key: "acme" stands there twice"#.into(),
        "integrator[1].endpoint: is empty; give at least one endpoint or leave the integrator out".into(),
        "integrator[1].endpoints: unknown key; did you mean `endpoint`?".into(),
        "integrator[2].key: is missing".into(),
        "integrator[2].endpoint[0].id: is missing".into(),
        r#"integrator[2].endpoint[0].topics: the classic format carries complianceRecord alone, so this endpoint would be told nothing; write format = "topic""#.into(),
        "integrator[2].endpoint[0].signing_secret: unknown key; did you mean `signing_secrets`?".into(),
        r#"integrator["globex"].endpoint: is missing; give at least one endpoint or leave the integrator out"#.into(),
        "integrators: unknown key; did you mean `integrator`?".into(),
    ];
    let expected: Vec<String> = expected.iter().map(|line: &String| format!("integrators.toml: {line}")).collect();
    let problems = folder.directory(BAD_INTEGRATORS, &[("CANARY_BAD", "CANARY")]).unwrap_err();
    assert_eq!(problems.iter().map(|line| line.replace("CANARY_BAD", "")).filter(|line| line.contains("CANARY")).count(), 0);
    assert_eq!(problems, expected);
}

#[test]
fn ways_to_authorize_are_told_apart_and_no_secret_is_told() {
    let folder = Folder::new();
    let endpoint = |index: usize, auth: &str| format!("[[integrator.endpoint]]\nid = 'e{index}'\nurl = 'https://a.example/'\n{auth}\n");
    let read = |auth: &[&str]| {
        let endpoints: String = auth.iter().enumerate().map(|(index, auth)| endpoint(index, auth)).collect();
        folder.directory(&format!("[[integrator]]\nkey = 'a'\n{endpoints}"), &[("BREAK", "CANARY\n")])
    };
    let good = read(&[
        "auth = { basic = { username = 'acme', password = 'CANARY' } }",
        "auth = { oauth2 = { token_url = 'https://id.example/CANARY', client_id = 'acme', client_secret = 'CANARY' } }",
        "auth = { oauth2 = { token_url = 'https://id.example/', client_id = 'a', client_secret = 'b', scope = 'c d', audience = 'e', client_auth = 'post' } }",
        "",
    ])
    .unwrap();
    let endpoints = endpoints(&good, "a");
    assert!(matches!(&endpoints[0].auth, Auth::Basic(value) if value == "Basic YWNtZTpDQU5BUlk=" && value.is_sensitive()));
    let Auth::OAuth2(plain) = &endpoints[1].auth else { panic!("{:?}", endpoints[1]) };
    assert_eq!((plain.client_id.as_str(), plain.client_auth, &plain.scope, &plain.audience), ("acme", ClientAuth::Basic, &None, &None));
    let Auth::OAuth2(full) = &endpoints[2].auth else { panic!("{:?}", endpoints[2]) };
    assert_eq!((full.client_auth, full.scope.as_deref(), full.audience.as_deref()), (ClientAuth::Post, Some("c d"), Some("e")));
    assert_eq!(endpoints[3].auth, Auth::None);
    assert!(!format!("{good:?}").contains("CANARY"));

    let problems = read(&[
        r#"auth = { basic = { username = "a:b", password = "a\nCANARY" } }"#,
        "auth = { basic = { username = 'a' }, oauth2 = {} }",
        "auth = { basik = { password = 'CANARY' } }",
        "auth = 'CANARY'",
        "auth = { basic = { username = 'a', password = 'b' } }\nheaders = { Authorization = 'CANARY' }",
        "auth = { oauth2 = { token_url = 'http://id.example/CANARY', client_id = '', client_secret = { env = 'BREAK' }, client_auth = 'jwt' } }",
        "auth = { oauth2 = { token_url = 'https://u:CANARY@id.example/', client_secret = 7, password = 'CANARY' } }",
    ])
    .unwrap_err();
    let line = |index: usize, what: &str| format!(r#"integrators.toml: integrator["a"].endpoint["e{index}"].auth{what}"#);
    let breaks = "has a control character, such as a line break at its end";
    let expected = [
        line(0, ".basic.username: has a colon, which ends a user name"),
        line(0, &format!(".basic.password: {breaks}")),
        line(1, ": must hold one of `basic` and `oauth2`"),
        line(2, ": must hold one of `basic` and `oauth2`"),
        line(2, ".basik: unknown key; did you mean `basic`?"),
        line(3, &format!(r#": a text is no table; write [{}]"#, r#"integrator["a"].endpoint["e3"].auth"#)),
        line(3, ": must hold one of `basic` and `oauth2`"),
        line(4, ": sets the header authorization, which stands in `headers` too; leave one of them out"),
        line(5, ".oauth2.token_url: must start with https:// (http:// is refused unless [egress] allow_http = true)"),
        line(5, ".oauth2.client_id: is empty"),
        line(5, &format!(".oauth2.client_secret: {breaks}")),
        line(5, r#".oauth2.client_auth: "jwt" is not known; write "basic" or "post""#),
        line(6, ".oauth2.token_url: must not hold a user name or password; use `auth`"),
        line(6, ".oauth2.client_id: is missing"),
        line(6, r#".oauth2.client_secret: is no secret; write a text, { env = "NAME" } or { file = "path" }"#),
        line(6, ".oauth2.password: unknown key; known here: token_url, client_id, client_secret, scope, audience, client_auth"),
    ];
    assert_eq!(problems, expected);
}

#[test]
fn an_empty_file_has_no_integrators_and_plain_http_must_be_allowed() {
    let folder = Folder::new();
    assert!(folder.directory("# nobody\n", &[]).unwrap().is_empty());
    let path = folder.write("http.toml", "[[integrator]]\nkey = 'a'\n[[integrator.endpoint]]\nid = 'b'\nurl = 'http://127.0.0.1:1/'\n");
    let egress = Egress::anywhere();
    let directory = load_directory(&path, None, &DeliveryPolicy::default(), &egress, &Environment::default()).unwrap();
    assert_eq!(endpoints(&directory, "a").len(), 1);
}

#[test]
fn an_integrator_without_endpoints_is_refused() {
    let problems = Folder::new().directory("[[integrator]]\nkey = 'acme'\nendpoint = []\n", &[]).unwrap_err();
    let expected = r#"integrators.toml: integrator["acme"].endpoint: is empty; give at least one endpoint or leave the integrator out"#;
    assert_eq!(problems, [expected]);
}

#[test]
fn many_problems_are_cut_with_their_number() {
    let text: String = (0..1500).map(|index| format!("[[integrator]]\nkey = 'k{index}'\n")).collect();
    let problems = Folder::new().directory(&text, &[]).unwrap_err();
    assert_eq!((problems.len(), problems[1000].as_str()), (1001, "integrators.toml: and 500 problems more"));
}

#[test]
fn ten_thousand_integrators_load() {
    let one = |index: u32| {
        format!(
            "[[integrator]]\nkey = 'k{index}'\n[[integrator.endpoint]]\nid = 'main'\nurl = 'https://k{index}.example/'\n\
             signing_secrets = ['{SECRET}']\nheaders = {{ x-secret = 'k{index}' }}\nretry = {{ max_age = '1h' }}\n"
        )
    };
    let text: String = (0..10_000).map(one).collect();
    let start = Instant::now();
    let directory = Folder::new().directory(&text, &[]).unwrap();
    println!("10,000 integrators in {:?}", start.elapsed());
    assert_eq!((directory.len(), directory.all().count()), (10_000, 10_000));
}

#[test]
fn secrets_dir_is_relative_to_the_configuration_and_holds_whenever_integrators_are_read() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("secrets")).unwrap();
    folder.write("secrets/key", "inside");
    folder.write("password", "CANARY");
    let naming = |file: &str| integrator("acme").replace(" }]", &format!(", headers = {{ x-a = {{ file = '{file}' }} }} }}]"));
    let config = folder.write("callbackd.toml", &format!("{LEAST}[integrators]\nsecrets_dir = 'secrets'\n"));
    folder.write("integrators.toml", &naming("secrets/key"));
    let (loaded, directory) = load_all(&config).unwrap();
    assert_eq!(loaded.secrets_dir, Some(folder.path("secrets")));
    assert_eq!(endpoints(&directory, "acme")[0].headers["x-a"], "inside");

    folder.write("integrators.toml", &naming("password"));
    let refused = [
        r#"integrators.toml: integrator["acme"].endpoint["main"].headers.x-a: the file "password" does not lie below integrators.secrets_dir, "secrets"; put it there"#,
    ];
    assert_eq!(folder.lines(&load_all(&config).unwrap_err()), refused);
    // Also when callbackd.toml has a problem of its own.
    folder.write("callbackd.toml", &format!("{LEAST}[integrators]\nsecrets_dir = 'secrets'\n[worker]\nx = 1\n"));
    assert_eq!(folder.lines(&load_all(&config).unwrap_err())[1..], refused);
    // A folder that is wrong is no leave to read from everywhere: the other file is not looked at.
    folder.write("callbackd.toml", &format!("{LEAST}[integrators]\nsecrets_dir = ''\n"));
    assert_eq!(folder.lines(&load_all(&config).unwrap_err()), ["callbackd.toml: integrators.secrets_dir: is empty"]);
}

/// A value as TOML writes it; keys and texts are mostly those that mean something.
fn toml_value() -> impl Strategy<Value = String> {
    let text =
        prop_oneof!["[a-z0-9.:/_-]{0,12}", "[ -~]{0,8}", Just("15s".to_owned()), Just("amqp://h/v".to_owned()), Just(SECRET.to_owned())];
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (-5_i64..2000).prop_map(|number| number.to_string()),
        prop_oneof![Just("nan"), Just("-inf"), Just("1e300"), Just("0.5"), Just("true"), Just("1979-05-27")].prop_map(str::to_owned),
        text.prop_map(|text| format!("'{}'", text.replace('\'', ""))),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map(toml_key(), inner, 0..6).prop_map(|table| {
                let members: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", members.join(", "))
            }),
        ]
    })
}

fn toml_key() -> impl Strategy<Value = String> {
    const KEYS: &str = "broker url prefix names route dead declare heartbeat timeout publish_channels source name exchange queue binding \
        prefetch wait shortest longest worker max_body max_bytes_in_flight retention delivery max_in_flight retry initial multiplier max_delay jitter \
        max_attempts rate batch max_events max_wait max_bytes circuit consecutive failure_rate window initial_wait egress allow_http allow_private_networks allow_cidrs deny_cidrs ports proxy tls certificate key ca admin listen integrators file log format level integrator key endpoint id \
        topics signing_secrets headers env x-acme";
    let keys: Vec<&str> = KEYS.split_whitespace().collect();
    prop_oneof![9 => prop::sample::select(keys).prop_map(str::to_owned), 1 => "\"[ -!#-\\[\\]-~]{0,70}\""]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_in_a_file_or_a_variable_there_is_a_result_or_a_problem(
        table in prop::collection::btree_map(toml_key(), toml_value(), 0..8),
        variable in "CALLBACKD__(BROKER|SOURCE|DELIVERY|[A-Z_0-9]{0,9})(__[A-Z0-9_]{0,9}){0,3}",
        value in toml_value(),
    ) {
        let text: String = table.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let folder = Folder::new();
        for text in [text.clone(), format!("{text}\n{LEAST}")] {
            if let Err(problems) = folder.config(&text, &[(&variable, &value)]) {
                prop_assert!(!problems.is_empty());
            }
            if let Err(problems) = folder.directory(&text, &[]) {
                prop_assert!(!problems.is_empty());
            }
        }
    }

    #[test]
    fn whatever_bytes_a_file_has_there_is_a_result_or_a_problem(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = Folder::new();
        std::fs::write(folder.path("x.toml"), bytes).unwrap();
        let _ = load(&folder.path("x.toml"), []);
    }
}

/// A watched file of integrators.
struct Watched {
    directory: watch::Receiver<Arc<Directory>>,
    trigger: callbackd::config::reload::ReloadTrigger,
    _stop: tokio_util::sync::DropGuard,
}

impl Watched {
    fn start(folder: &Folder) -> Self {
        let config = folder.config(LEAST, &[]).unwrap();
        let first = load_directory(&config.integrators_file, None, &config.delivery, &config.egress, &Environment::default()).unwrap();
        let stop = CancellationToken::new();
        let (directory, trigger) = watch_directory(&config, first, Telemetry::default(), stop.clone());
        Self { directory, trigger, _stop: stop.drop_guard() }
    }

    /// Waits until the directory in force is as it should be.
    async fn until(&mut self, wanted: impl FnMut(&Arc<Directory>) -> bool) {
        tokio::time::timeout(Duration::from_secs(30), self.directory.wait_for(wanted)).await.expect("in time").expect("watched");
    }
}

fn integrator(key: &str) -> String {
    format!("[[integrator]]\nkey = '{key}'\nendpoint = [{{ id = 'main', url = 'https://{key}.example/' }}]\n")
}

fn knows(key: &'static str) -> impl FnMut(&Arc<Directory>) -> bool {
    move |directory| directory.endpoints(&IntegratorKey::try_new(key).unwrap()).is_some()
}

#[tokio::test]
async fn a_new_version_comes_into_force_by_itself() {
    let folder = Folder::new();
    folder.write("integrators.toml", &integrator("first"));
    let mut watched = Watched::start(&folder);
    assert!(knows("first")(&watched.directory.borrow()));

    folder.write("integrators.toml", &integrator("second"));
    watched.until(knows("second")).await;

    folder.write("next.toml", &integrator("third"));
    std::fs::rename(folder.path("next.toml"), folder.path("integrators.toml")).unwrap();
    watched.until(|directory| !knows("second")(directory)).await;
    assert!(knows("third")(&watched.directory.borrow()));
}

#[tokio::test]
async fn a_swapped_symbolic_link_is_a_new_version() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    for (version, key) in [("..v1", "first"), ("..v2", "second")] {
        std::fs::create_dir(folder.path(version)).unwrap();
        folder.write(&format!("{version}/integrators.toml"), &integrator(key));
    }
    symlink("..v1", folder.path("..data")).unwrap();
    symlink("..data/integrators.toml", folder.path("integrators.toml")).unwrap();
    let mut watched = Watched::start(&folder);
    assert!(knows("first")(&watched.directory.borrow()));

    symlink("..v2", folder.path("..data_tmp")).unwrap();
    std::fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    watched.until(knows("second")).await;
}

#[tokio::test]
async fn a_reload_that_is_asked_for_reads_the_secrets_again() {
    let folder = Folder::new();
    folder.write("secret", "old");
    folder.write(
        "integrators.toml",
        "[[integrator]]\nkey = 'a'\n[[integrator.endpoint]]\nid = 'b'\nurl = 'https://a.example/'\nheaders = { x-a = { file = 'secret' } }\n",
    );
    let mut watched = Watched::start(&folder);
    assert_eq!(endpoints(&watched.directory.borrow(), "a")[0].headers["x-a"], "old");
    // The first look of the watcher itself must be over, or it would be what reads the new secret.
    watched.directory.changed().await.unwrap();
    folder.write("secret", "new");
    watched.trigger.reload();
    watched.until(|directory| endpoints(directory, "a")[0].headers["x-a"] == "new").await;
}
