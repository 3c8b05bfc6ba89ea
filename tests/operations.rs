//! Alerts, their tests, runbooks, dashboards and the local stack name metrics, labels, commands, ports and images: all of them are
//! there, and each of these checks sees a slip. What the rules do with series is promtool's to show (tests/run.sh).

#![allow(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]

#[path = "operations/alerts.rs"]
mod alerts;
#[path = "operations/dashboards.rs"]
mod dashboards;
#[path = "operations/metrics.rs"]
mod metrics;
#[path = "operations/promql.rs"]
mod promql;
#[path = "operations/stack.rs"]
mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use callbackd::domain::dead::{DeadReason, RejectReason};
use callbackd::domain::integrator::SkipReason;
use callbackd::letters::{JobKind, JobState};
use callbackd::telemetry::{ApiRefusal, EventOutcome, WaitCause};
use serde_json::{Value, json};

use metrics::Catalogue;
use stack::Stack;

const RULES: [&str; 2] = ["deploy/prometheus/alerts.yml", "deploy/prometheus/alerts-rabbitmq.yml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a folder by their names.
fn files(folder: &str) -> BTreeMap<String, String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeMap<String, String> = entries.map(|name| (name.clone(), text(&format!("{folder}/{name}")))).collect();
    assert!(!files.is_empty(), "nothing in {folder}");
    files
}

fn yaml(text: &str) -> Value {
    let python = std::env::var("CALLBACKD_TEST_PYTHON")
        .expect("CALLBACKD_TEST_PYTHON must name a Python interpreter with tests/requirements.txt installed (tests/run.sh makes one)");
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut child = Command::new(python).args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "this is no YAML: {text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn catalogue() -> Catalogue {
    Catalogue::read(&text("deploy/METRICS.md"))
}

fn all_alerts() -> Vec<Value> {
    let alerts: Vec<Value> = RULES.iter().flat_map(|path| alerts::alerts(&yaml(&text(path))).cloned().collect::<Vec<_>>()).collect();
    assert!(alerts.len() > 20, "{} alerts", alerts.len());
    alerts
}

#[track_caller]
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Something that was made wrong on purpose: exactly one problem is seen, and it says what.
#[track_caller]
fn assert_sees(problems: &[String], what: &str) {
    assert!(problems.len() == 1 && problems[0].contains(what), "{what}: {problems:#?}");
}

#[test]
fn a_query_is_read_with_everything_that_it_names() {
    let query = promql::Query::read(
        r#"sum by (job, le) (rate(a_bucket{x="1", y!~'b|c'}[5m])) > 300 * time() and on (z) label_replace(b, "made", "$1", "from", "(.+)") offset 5m"#,
    );
    let names: Vec<&str> = query.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(names, ["a_bucket", "b"]);
    let matchers: Vec<_> = query.selectors[0].matchers.iter().map(|found| (&*found.label, &*found.operator, &*found.value)).collect();
    assert_eq!(matchers, [("x", "=", "1"), ("y", "!~", "b|c")]);
    let sorted = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(query.groupings, sorted(&["job", "le", "z"]));
    assert_eq!((query.functions, query.made), (sorted(&["sum", "rate", "time", "label_replace"]), sorted(&["made"])));
}

#[test]
fn a_metric_or_label_or_value_that_is_not_there_is_seen() {
    let catalogue = catalogue();
    for good in [
        r#"increase(callbackd_dead_letters_total{reason="gone"}[1h]) > 0"#,
        "histogram_quantile(0.99, sum by (job, le) (rate(callbackd_retry_lateness_seconds_bucket[5m])))",
        r#"up{job="callbackd"} == 0"#,
    ] {
        assert_none(&catalogue.problems(good));
    }
    for (bad, what) in [
        ("increase(callbackd_dead_letter_total[1h])", "no metric callbackd_dead_letter_total"),
        ("rate(callbackd_retry_lateness_seconds[5m])", "no metric callbackd_retry_lateness_seconds "),
        (r#"callbackd_dead_letters_total{source="ident"}"#, "has no label source"),
        (r#"callbackd_dead_letters_total{reason="dead"}"#, "reason is never dead"),
        (r#"callbackd_api_refusals_total{reason=~"wrong_token|wrong"}"#, "reason is never wrong "),
        (r#"callbackd_jobs_ended_total{kind="replay", state="fail"}"#, "state is never fail "),
        ("sum by (endpoint) (callbackd_in_flight)", "no metric here has a label endpoint"),
        ("max by (le) (callbackd_attempt_duration_seconds_sum)", "a label le"),
        ("maximum(callbackd_in_flight)", "no function maximum"),
        ("vector(1)", "no metric at all"),
    ] {
        assert_sees(&catalogue.problems(bad), what);
    }
}

#[test]
fn the_document_names_every_value_that_a_label_can_have() {
    let catalogue = catalogue();
    let reasons = (DeadReason::ALL.map(DeadReason::as_str).into_iter())
        .chain(RejectReason::CODES)
        .chain(SkipReason::ALL.map(SkipReason::as_str))
        .chain(ApiRefusal::ALL.map(|refusal| refusal.as_str()))
        .map(|value| ("reason", value));
    let causes = WaitCause::ALL.map(|cause| ("cause", cause.as_str()));
    let outcomes = EventOutcome::ALL.map(|outcome| ("outcome", outcome.as_str()));
    let kinds = [JobKind::Replay, JobKind::Discard].map(|kind| ("kind", kind.as_str()));
    let ends = [JobState::Done, JobState::Cancelled, JobState::Failed { why: String::new() }, JobState::Interrupted];
    let states = ends.iter().map(|state| ("state", state.as_str()));
    let all = reasons.chain(causes).chain(outcomes).chain(kinds).chain(states);
    let missing: Vec<_> = all.filter(|(label, value)| !catalogue.knows_value(label, value)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(!catalogue.knows_value("cause", "gone") && !catalogue.knows_value("reason", "retry"));
}

#[test]
fn alerts_use_what_there_is_and_say_what_they_are_about() {
    let (catalogue, all) = (catalogue(), all_alerts());
    assert_none(&all.iter().flat_map(|alert| alerts::of_alert(alert, &catalogue)).collect::<Vec<_>>());
    let doctored = |pointer: &str, value: &str| {
        let mut alert = all.iter().find(|alert| alerts::name(alert) == "CallbackdDeadLetters").unwrap().clone();
        *alert.pointer_mut(pointer).unwrap() = json!(value);
        alerts::of_alert(&alert, &catalogue)
    };
    assert_sees(&doctored("/labels/severity", "page"), "severity");
    assert_sees(&doctored("/annotations/runbook_url", "deploy/runbooks/Other.md"), "runbook_url");
    assert_sees(&doctored("/annotations/summary", "short"), "summary says nothing");
    assert_sees(&doctored("/annotations/summary", "Dead letters of worker {{ $labels.worker }}"), "shows worker");
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let names: Vec<String> = all_alerts().iter().map(|alert| format!("{}.md", alerts::name(alert))).collect();
    let alerts: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(alerts.len(), names.len(), "an alert's name stands there twice");
    let pages: BTreeSet<String> = files("deploy/runbooks").into_keys().filter(|name| name != "README.md").collect();
    assert_eq!(alerts, pages);
}

#[test]
fn the_readme_is_read_in_one_go() {
    let lines = text("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: what only an operator needs belongs into deploy/README.md");
}

#[test]
fn runbooks_name_queries_and_commands_that_exist() {
    let (catalogue, pages) = (catalogue(), files("deploy/runbooks"));
    let all = all_alerts();
    let of_alert = |alert: &Value| alerts::of_runbook(alert, &pages[&format!("{}.md", alerts::name(alert))], &catalogue);
    assert_none(&all.iter().flat_map(of_alert).collect::<Vec<_>>());
    assert_none(&alerts::of_text(&pages["README.md"], &catalogue));
    let document = text("deploy/METRICS.md");
    assert_none(&alerts::of_text(document.split("\n## What to watch\n").nth(1).unwrap(), &catalogue));

    let alert = all.iter().find(|alert| alerts::name(alert) == "CallbackdEndpointGone").unwrap();
    let good = &pages["CallbackdEndpointGone.md"];
    for (from, to, what) in [
        ("# CallbackdEndpointGone", "# CallbackdGone", "does not open with its name"),
        ("**warning.**", "**critical.**", "does not open with its name"),
        ("## Escalate", "## Whom to call", "lacks ## Escalate"),
        ("callbackd_circuit_state == 3", "callbackd_circuit == 3", "no metric callbackd_circuit "),
        ("`callbackd_circuit_state` of", "`callbackd_circuit_stage` of", "no metric callbackd_circuit_stage"),
        ("--endpoint ID --reason gone", "--endpoints ID --reason gone", "unexpected argument '--endpoints'"),
        ("--endpoint ID --reason gone", "--endpoint ID --reason went", "no reason went"),
        ("callbackd dead list", "callbackd dead letters", "unrecognized subcommand 'letters'"),
        ("`callbackd dead replay --integrator KEY", "`callbackd replay --integrator KEY", "unrecognized subcommand 'replay'"),
    ] {
        assert!(good.contains(from), "{from}");
        assert_sees(&alerts::of_runbook(alert, &good.replace(from, to), &catalogue), what);
    }
    let looked_for = "```sh\ncurl -s http://127.0.0.1:9464/metrics | grep -E 'callbackd_in_flight|callbackd_on_hold'\n```\n";
    assert_sees(&alerts::of_text(looked_for, &catalogue), "no metric callbackd_on_hold");
}

#[test]
fn every_alert_is_shown_firing_and_quiet_by_series_that_can_be() {
    let (catalogue, mut firing, mut quiet) = (catalogue(), BTreeSet::new(), BTreeSet::new());
    for test in files("deploy/prometheus/tests").values() {
        let test = yaml(test);
        assert_none(&alerts::of_series(&test, &catalogue));
        let shown = alerts::shown(&test);
        firing.extend(shown.0);
        quiet.extend(shown.1);
    }
    let all: BTreeSet<String> = all_alerts().iter().map(|alert| alerts::name(alert).to_owned()).collect();
    let known = |names: &BTreeSet<String>| names.is_subset(&all);
    assert!(known(&firing) && known(&quiet), "tests of alerts that are not there: {:?}", firing.union(&quiet).collect::<Vec<_>>());
    assert_eq!(all.difference(&firing).collect::<Vec<_>>(), Vec::<&String>::new(), "never seen firing");
    assert_eq!(all.difference(&quiet).collect::<Vec<_>>(), Vec::<&String>::new(), "never seen quiet");
}

#[test]
fn a_rule_test_that_shows_less_is_seen() {
    let catalogue = catalogue();
    let series = |series: &str| json!({"tests": [{"input_series": [{"series": series, "values": "1x5"}]}]});
    assert_none(&alerts::of_series(&series(r#"callbackd_broker_connected{job="callbackd",instance="a",link="publish"}"#), &catalogue));
    let lacks = series(r#"callbackd_broker_connected{job="callbackd",instance="a"}"#);
    assert_sees(&alerts::of_series(&lacks, &catalogue), "its labels are to be");
    let has_more = series(r#"callbackd_in_flight{job="callbackd",instance="a",link="publish"}"#);
    assert!(alerts::of_series(&has_more, &catalogue).iter().any(|problem| problem.contains("has no label link")));

    let cases = json!({"tests": [{
        "alert_rule_test": [{"alertname": "A", "exp_alerts": [{}]}, {"alertname": "B", "exp_alerts": []}],
        "promql_expr_test": [
            {"expr": r#"sum by (alertname) (ALERTS{alertname="C"})"#, "exp_samples": [{"labels": r#"{alertname="C"}"#}]},
            {"expr": r#"ALERTS{alertname=~"D|E"}"#, "exp_samples": []},
        ],
    }]});
    let sorted = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(alerts::shown(&cases), (sorted(&["A", "C"]), sorted(&["B", "D", "E"])));
}

#[test]
fn dashboards_show_what_there_is() {
    let (catalogue, mut uids) = (catalogue(), BTreeSet::new());
    for (name, text) in files("deploy/grafana/dashboards") {
        let dashboard: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_none(&dashboards::of_dashboard(&dashboard, &catalogue));
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}: another dashboard has its uid");
    }
    let good: Value = serde_json::from_str(&text("deploy/grafana/dashboards/endpoint.json")).unwrap();
    let doctored = |pointer: &str, value: Value| {
        let mut dashboard = good.clone();
        *dashboard.pointer_mut(pointer).unwrap() = value;
        dashboards::of_dashboard(&dashboard, &catalogue)
    };
    assert_sees(&doctored("/uid", json!("")), "no uid");
    assert_sees(&doctored("/panels/2/id", good["panels"][1]["id"].clone()), "is not its own");
    assert_sees(&doctored("/panels/2/gridPos", good["panels"][1]["gridPos"].clone()), "lies over another panel");
    assert_sees(&doctored("/panels/1/title", json!("")), "no title");
    assert_sees(&doctored("/panels/1/fieldConfig/defaults/unit", Value::Null), "no unit");
    assert_sees(&doctored("/panels/1/targets", json!([])), "no query");
    assert_sees(&doctored("/panels/1/targets/0/datasource/uid", json!("mine")), "another data source");
    let first = "/panels/1/targets/0/expr";
    assert_sees(&doctored(first, json!("max(callbackd_circuit_states)")), "no metric callbackd_circuit_states");
    assert_sees(&doctored(first, json!(r#"max(callbackd_circuit_state{job=~"$jobs"})"#)), "no variable jobs");
    assert_sees(&doctored("/panels/1/targets/0/legendFormat", json!("{{reason}}")), "shows reason");
    let variable = "/templating/list/2/query/query";
    assert_sees(&doctored(variable, json!("label_values(callbackd_attempts_total, source)")), "has no label source");
}

fn stack() -> Stack {
    let compose_text = text("docker-compose.yml");
    Stack {
        dockerfile: text("deploy/Dockerfile"),
        compose: yaml(&compose_text),
        compose_text,
        prometheus: yaml(&text("deploy/prometheus/prometheus.yml")),
        grafana_source: yaml(&text("deploy/grafana/provisioning/datasources/prometheus.yml")),
        worker: text("deploy/compose/callbackd.toml"),
        example: text("deploy/callbackd.example.toml"),
    }
}

#[test]
fn ports_agree_wherever_they_are_named() {
    let good = stack();
    assert_none(&good.of_admin_port());
    assert_none(&good.of_neighbours());
    assert_none(&good.of_published_ports());
    for doctor in [
        (|stack: &mut Stack| stack.dockerfile = stack.dockerfile.replace("EXPOSE 9464", "EXPOSE 9465")) as fn(&mut Stack),
        |stack| stack.dockerfile = stack.dockerfile.replace("127.0.0.1/9464", "127.0.0.1/9465"),
        |stack| stack.worker = stack.worker.replace(":9464", ":9465"),
        |stack| stack.example = stack.example.replace(":9464", ":9465"),
        |stack| stack.prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0] = json!("worker:9465"),
        |stack| stack.compose["services"]["worker"]["ports"][0] = json!("127.0.0.1:9465:9465"),
    ] {
        let mut stack = good.clone();
        doctor(&mut stack);
        assert_sees(&stack.of_admin_port(), "9465");
    }
    let mut moved = good.clone();
    moved.grafana_source["datasources"][0]["url"] = json!("http://prometheus:9091");
    assert_sees(&moved.of_neighbours(), "prometheus:9091");
    let mut open = good.clone();
    open.compose["services"]["grafana"]["ports"][0] = json!("3000:3000");
    assert_sees(&open.of_published_ports(), "open to others");
    let mut unlisted = good.clone();
    unlisted.compose_text = unlisted.compose_text.replacen("3000", "3001", 1);
    assert_sees(&unlisted.of_published_ports(), "not in the heading");
}

#[test]
fn services_are_checked_in_order_and_mount_what_is_there() {
    let good = stack();
    assert_none(&good.of_services(root()));
    let mut doctored = good.clone();
    doctored.compose["services"]["grafana"]["healthcheck"] = Value::Null;
    assert_sees(&doctored.of_services(root()), "grafana has no health check");
    doctored = good.clone();
    doctored.compose["services"]["grafana"]["volumes"][0] = json!("./deploy/grafana/nowhere:/etc/grafana:ro");
    assert_sees(&doctored.of_services(root()), "grafana mounts deploy/grafana/nowhere");
    doctored = good.clone();
    doctored.compose["services"]["grafana"]["depends_on"] = json!({"metrics": {"condition": "service_healthy"}});
    assert_sees(&doctored.of_services(root()), "grafana needs metrics");
    assert_eq!(good.compose["services"]["grafana"]["depends_on"]["prometheus"]["condition"], "service_healthy");
}

#[test]
fn images_are_pinned_and_the_same_everywhere() {
    let texts = [text("docker-compose.yml"), text("deploy/Dockerfile"), text("deploy/demo.sh")];
    let of = |texts: &[String]| stack::of_images(texts.iter().map(String::as_str));
    assert_none(&of(&texts));
    let with = |line: &str| of(&[&texts[..], &[line.to_owned()]].concat());
    assert_sees(&with("    image: rabbitmq:4.1.0-management"), "rabbitmq");
    assert_sees(&with("readonly IMAGE=rabbitmq:3.13-management FIXTURES=x"), "rabbitmq");
    assert_sees(&with("FROM alpine:latest"), "alpine");
    assert_sees(&with("FROM alpine"), "alpine");
    assert_none(&with("    image: callbackd:local"));
}
