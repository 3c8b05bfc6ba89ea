//! Users of the broker who may do no more than `callbackd topology permissions` says: with them everything works where nothing is
//! declared, and nothing else does.

mod scene;
mod support;

use std::path::Path;
use std::time::Duration;

use callbackd::cli::topology::TopologyCommand;
use callbackd::config::{self, Config};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use reqwest::Method;
use scene::{endpoint, event, integrator};
use serde_json::{Value, json};
use support::{Amqp, DEAD, Receiver, Vhost, Worker, config_at, dead, eventually, parsed, short_waits};

const SOON: Duration = Duration::from_secs(30);

/// A vhost made from the two exported files, and its three users.
struct Premises {
    vhost: Vhost,
    /// What else stands in its configuration.
    more: &'static str,
}

impl Premises {
    async fn make() -> Self {
        Self::make_with("").await
    }

    async fn make_with(more: &'static str) -> Self {
        let vhost = Vhost::create().await;
        let premises = Self { vhost, more };
        let config = premises.config("guest");
        let definitions = printed(&config, &["export"]).await;
        premises.ask(Method::POST, &format!("/api/definitions/{}", premises.vhost.name()), definitions).await;
        for role in ["worker", "operator", "publisher"] {
            let path = format!("/api/users/{}", premises.user(role));
            premises.ask(Method::PUT, &path, json!({"password": "secret", "tags": ""})).await;
        }
        let users = ["worker", "operator", "publisher"].map(|role| premises.user(role));
        let [worker, operator, publisher] = &users;
        let arguments =
            ["permissions", "--vhost", premises.vhost.name(), "--worker", worker, "--operator", operator, "--publisher", publisher];
        premises.ask(Method::POST, "/api/definitions", printed(&config, &arguments).await).await;
        premises
    }

    fn user(&self, role: &str) -> String {
        if role == "guest" { role.to_owned() } else { format!("{role}-{}", self.vhost.name()) }
    }

    fn url(&self, role: &str) -> String {
        let password = if role == "guest" { "guest" } else { "secret" };
        self.vhost.url().replacen("guest:guest", &format!("{}:{password}", self.user(role)), 1)
    }

    /// The worker's configuration, as read by who is no worker.
    fn config(&self, role: &str) -> Config {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("callbackd.toml");
        std::fs::write(&path, self.file(role)).expect("callbackd.toml");
        config::load(&path, []).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn file(&self, role: &str) -> String {
        let text = short_waits(&self.vhost).replace(&self.vhost.url(), &self.url(role));
        let text = text.replacen("[broker]\n", "[broker]\ndeclare = false\n", 1);
        format!("{text}\n[outcomes]\nexchange = \"callbacks.outcomes\"\n{}", self.more)
    }

    async fn connection(&self, role: &str) -> Connection {
        Connection::connect(&self.url(role), ConnectionProperties::default()).await.expect("a connection")
    }

    /// What the broker says to a user who publishes.
    async fn published(&self, role: &str, exchange: &str) -> String {
        let channel = self.connection(role).await.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let (exchange, key, options) = (exchange.into(), "callbacks.dead".into(), BasicPublishOptions::default());
        let confirm = channel.basic_publish(exchange, key, options, b"{}", BasicProperties::default()).await.expect("sent");
        said(confirm.await)
    }

    async fn got(&self, role: &str, queue: &str) -> String {
        let channel = self.connection(role).await.create_channel().await.expect("a channel");
        said(channel.basic_get(queue.into(), BasicGetOptions::default()).await)
    }

    async fn ask(&self, method: Method, path: &str, body: Value) {
        self.vhost.broker().api(method, path, Some(body)).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    }

    /// Takes its users with it, which the vhost does not.
    async fn leave(self) {
        for role in ["worker", "operator", "publisher"] {
            self.vhost.broker().api(Method::DELETE, &format!("/api/users/{}", self.user(role)), None).await.expect("deleted");
        }
    }
}

/// `done`, or the broker's words.
fn said<T>(result: lapin::Result<T>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "done".to_owned())
}

async fn printed(config: &Config, arguments: &[&str]) -> Value {
    let mut out = Vec::new();
    parsed::<TopologyCommand>(arguments).run_to(config, &mut out).await.expect("printed");
    serde_json::from_slice(&out).expect("JSON")
}

#[tokio::test]
async fn a_worker_with_the_least_rights_delivers_retries_buries_and_rejects_and_an_operator_replays() {
    let premises = Premises::make().await;
    let receiver = Receiver::start();
    receiver.on_path("/", [503, 200]);
    receiver.on_path("/down", [500, 500, 200]);
    let endpoints = [endpoint("main", &receiver.url("/"), ""), endpoint("down", &receiver.url("/down"), "retry = { max_attempts = 2 }")];
    let mut worker = Worker::start(&premises.file("worker"), &integrator("acme", &endpoints));
    worker.wait_ready().await;

    let upstream = Amqp::connect(&premises.url("publisher")).await;
    upstream.publish_event("compliance.events", "complianceRecord", &event("evt-1")).await;
    upstream.publish_event("ident.events", "any", "no event").await;
    receiver.wait_for_at("/", 2, SOON).await;
    receiver.wait_for_at("/down", 2, SOON).await;
    let all = premises.vhost.connect().await;
    all.wait_ready(DEAD, 1, SOON).await;
    all.wait_ready("callbacks.rejected", 1, SOON).await;

    let config = premises.config("operator");
    let listed = dead(&config, &["list", "--json"]).await.expect("listed");
    assert!(listed.contains("\"evt-1\"") && listed.contains("\"exhausted\""), "{listed}");
    assert!(dead(&config, &["list", "--queue", "rejected", "--json"]).await.expect("listed").contains("undecodable"));
    // The worker shows them too, to those who use its API.
    let (status, letters) = worker.admin("/api/v1/letters/dead").await.expect("an answer");
    assert!(status == 200 && letters.contains("\"evt-1\""), "{status}: {letters}");
    dead(&config, &["replay", "--event", "evt-1"]).await.expect("replayed");
    let seen = receiver.wait_for_at("/down", 3, SOON).await;
    assert!(seen.iter().all(|one| one.webhook_id() == seen[0].webhook_id()));
    all.wait_ready(DEAD, 0, SOON).await;
    // Delivered to one endpoint and the other, dead there, and no event at all.
    worker.wait_for_metric("callbackd_outcomes_total", &[("result", "published")], 4.0, SOON).await;
    eventually("the replay is settled", SOON, async || all.depth("callbacks.compliance.due").await == (0, 1)).await;
    worker.sigterm();
    worker.wait_exit(SOON).await;
    premises.leave().await;
}

#[tokio::test]
async fn each_user_is_refused_what_is_not_its_business() {
    let premises = Premises::make_with("[admin]\napi = false\n").await;
    for role in ["worker", "operator", "publisher"] {
        let channel = premises.connection(role).await.create_channel().await.expect("a channel");
        let declared = said(channel.queue_declare("callbacks.new".into(), QueueDeclareOptions::default(), FieldTable::default()).await);
        assert!(declared.contains("ACCESS_REFUSED"), "{role} declares: {declared}");
        let channel = premises.connection(role).await.create_channel().await.expect("a channel");
        let deleted = said(channel.queue_delete("callbacks.dead".into(), QueueDeleteOptions::default()).await);
        assert!(deleted.contains("ACCESS_REFUSED"), "{role} deletes: {deleted}");
    }
    for (role, exchange, may) in [
        ("worker", "callbacks.publish", true),
        ("worker", "callbacks.outcomes", true),
        ("worker", "callbacks.route", false),
        ("worker", "compliance.events", false),
        ("worker", "", false),
        ("operator", "callbacks.publish", true),
        ("operator", "ident.events", false),
        ("operator", "callbacks.outcomes", false),
        ("publisher", "compliance.events", true),
        ("publisher", "callbacks.publish", false),
    ] {
        let said = premises.published(role, exchange).await;
        assert_eq!((said == "done", said.contains("ACCESS_REFUSED")), (may, !may), "{role} publishes to {exchange:?}: {said}");
    }
    for (role, queue, may) in [
        ("worker", "callbacks.compliance", true),
        ("worker", "callbacks.ident.due", true),
        ("worker", "callbacks.compliance.wait.200ms", false),
        ("worker", "callbacks.dead", false),
        ("operator", "callbacks.dead", true),
        ("operator", "callbacks.unroutable", true),
        ("operator", "callbacks.compliance", false),
        ("publisher", "callbacks.compliance", false),
    ] {
        let said = premises.got(role, queue).await;
        assert_eq!((said == "done", said.contains("ACCESS_REFUSED")), (may, !may), "{role} reads {queue}: {said}");
    }
    premises.leave().await;
}

#[tokio::test]
async fn a_worker_with_less_than_the_least_says_what_it_lacks_and_is_not_ready() {
    let premises = Premises::make().await;
    let least = printed(&premises.config("guest"), &["permissions"]).await["permissions"][0].clone();
    let [write, read] = ["write", "read"].map(|key| least[key].as_str().expect("a pattern"));
    let path = format!("/api/permissions/{}/{}", premises.vhost.name(), premises.user("worker"));
    let without_due = read.replace(r"|callbacks\.compliance\.due", "");
    assert_ne!(without_due, read);
    for (write, read, what, wrong) in [
        ("^$", read, "callbacks.publish", "the permission to write"),
        (write, without_due.as_str(), "callbacks.compliance.due", "ACCESS_REFUSED"),
    ] {
        premises.ask(Method::PUT, &path, json!({"configure": "^$", "write": write, "read": read})).await;
        let worker = Worker::start(&premises.file("worker"), "");
        worker
            .wait_for_log(what, SOON, |line| {
                let line = line.to_string();
                line.contains(what) && line.contains(wrong)
            })
            .await;
        let (status, missing) = worker.admin("/readyz").await.expect("an answer");
        assert_eq!(status, 503, "{missing}");
    }
    premises.leave().await;
}

#[tokio::test]
async fn the_files_in_the_repository_are_those_of_the_example_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("deploy/callbackd.example.toml");
    let secrets = ["CALLBACKD_OPS_TOKEN", "CALLBACKD_HASH_SECRET"].map(|name| (name.to_owned(), "x".repeat(32)));
    let config = config::load(&example, secrets).unwrap_or_else(|problems| panic!("{problems}"));
    let of_tests = config_at("amqp://h");
    assert_ne!(printed(&of_tests, &["export"]).await, printed(&config, &["export"]).await);
    for (name, arguments) in [("definitions", &["export", "--vhost", "/"][..]), ("permissions", &["permissions"][..])] {
        let (path, text) = (root.join(format!("deploy/rabbitmq/{name}.json")), format!("{:#}\n", printed(&config, arguments).await));
        if std::env::var_os("CALLBACKD_UPDATE").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is stale; cargo test --test least_privilege with CALLBACKD_UPDATE=1 writes it", path.display());
    }
}
