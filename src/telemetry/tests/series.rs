//! Facts as metrics.

use std::collections::{BTreeMap, BTreeSet};

use super::captured::assert_series;
use super::scene::{Scene, config, directory};
use crate::clock;
use crate::domain::dead::DeadReason;
use crate::domain::decide::Verdict;
use crate::domain::names::IntegratorKey;
use crate::domain::reply::{Failure, Outcome};
use crate::telemetry::{Fact, REMOVED, Telemetry};

#[test]
fn every_fact_about_events_and_deliveries_counts_in_its_series() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    scene.record_everything(&telemetry);
    scene.attempt(&telemetry, Outcome::Answered { status: 503, retry_after: None }, Verdict::Retry(scene.wait));
    scene.attempt(&telemetry, Outcome::Failed(Failure::Timeout), Verdict::Dead(DeadReason::Exhausted));
    assert_series(
        &telemetry,
        &[
            r#"callbackd_events_received_total{queue="due",source="ident"} 1"#,
            r#"callbackd_events_received_total{queue="work",source="ident"} 0"#,
            r#"callbackd_retry_lateness_seconds_bucket{le="0.05"} 1"#,
            r#"callbackd_events_settled_total{outcome="delivered",source="ident"} 1"#,
            r#"callbackd_events_settled_total{outcome="dead",source="ident"} 0"#,
            r#"callbackd_events_rejected_total{reason="unknown_integrator",source="ident"} 1"#,
            r#"callbackd_waits_total{cause="configuration"} 1"#,
            r#"callbackd_waits_total{cause="parked"} 0"#,
            r#"callbackd_deliveries_skipped_total{endpoint="main",integrator="acme",reason="topic_not_wanted"} 1"#,
            r#"callbackd_attempts_total{class="2xx",endpoint="main",integrator="acme",verdict="delivered"} 1"#,
            r#"callbackd_attempts_total{class="5xx",endpoint="main",integrator="acme",verdict="retry"} 1"#,
            r#"callbackd_attempts_total{class="timeout",endpoint="main",integrator="acme",verdict="dead"} 1"#,
            r#"callbackd_attempt_duration_seconds_count 3"#,
            r#"callbackd_attempt_duration_seconds_bucket{le="0.05"} 3"#,
            r#"callbackd_delivery_latency_seconds_sum 7"#,
            r#"callbackd_dead_letters_total{endpoint="main",integrator="acme",reason="gone"} 1"#,
        ],
    );
}

#[test]
fn every_fact_about_the_broker_and_the_process_shows() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.record(&Fact::BrokerBlocked { reason: "disk" });
    telemetry.record(&Fact::Quarantined { queue: "callbacks.ident" });
    telemetry.record(&Fact::BrokerConnected { link: "publish" });
    assert_series(
        &telemetry,
        &[
            "callbackd_broker_blocked 1",
            r#"callbackd_quarantined{queue="callbacks.ident"} 1"#,
            r#"callbackd_broker_connected{link="publish"} 1"#,
            r#"callbackd_broker_reconnects_total{link="publish"} 0"#,
        ],
    );
    scene.record_everything(&telemetry);
    telemetry.record(&Fact::BrokerConnected { link: "callbacks.ident" });
    assert_series(
        &telemetry,
        &[
            "callbackd_broker_blocked 0",
            r#"callbackd_quarantined{queue="callbacks.ident"} 0"#,
            r#"callbackd_quarantines_total{queue="callbacks.ident"} 2"#,
            r#"callbackd_prefetch{queue="callbacks.ident"} 8"#,
            r#"callbackd_window_narrowed_total{queue="callbacks.ident"} 1"#,
            r#"callbackd_given_back_total{queue="callbacks.ident"} 5"#,
            r#"callbackd_broker_connected{link="callbacks.ident"} 1"#,
            r#"callbackd_broker_reconnects_total{link="callbacks.ident"} 1"#,
            r#"callbackd_publish_failures_total{queue="callbacks.ident.wait.1s"} 1"#,
            r#"callbackd_stale_acks_total{queue="callbacks.ident"} 3"#,
            r#"callbackd_jobs_ended_total{kind="replay",state="failed"} 1"#,
            r#"callbackd_jobs_ended_total{kind="discard",state="done"} 0"#,
            "callbackd_jobs_not_recorded_total 1",
            r#"callbackd_config_reloads_total{result="success"} 1"#,
            r#"callbackd_config_reloads_total{result="refused"} 1"#,
            "callbackd_config_last_reload_successful 0",
            "callbackd_integrators 2",
            "callbackd_endpoints 3",
            concat!(r#"callbackd_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ],
    );
    let text = telemetry.metrics_text();
    let at = text.lines().find_map(|line| line.strip_prefix("callbackd_config_last_reload_success_timestamp_seconds ")).unwrap();
    assert!(clock::now().seconds() - at.parse::<i64>().unwrap() < 60, "{at}");
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
}

#[test]
fn what_the_configuration_knows_starts_at_zero() {
    let telemetry = Telemetry::new(&config());
    telemetry.configured(&directory(&[("acme", "main")]));
    assert_series(
        &telemetry,
        &[
            r#"callbackd_events_received_total{queue="work",source="ident"} 0"#,
            r#"callbackd_events_rejected_total{reason="undecodable",source="ident"} 0"#,
            r#"callbackd_broker_connected{link="publish"} 0"#,
            r#"callbackd_broker_connected{link="callbacks.ident.due"} 0"#,
            r#"callbackd_quarantined{queue="callbacks.ident"} 0"#,
            r#"callbackd_quarantines_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_prefetch{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_given_back_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_window_narrowed_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_stale_acks_total{queue="callbacks.ident.due"} 0"#,
            r#"callbackd_publish_failures_total{queue="callbacks.dead"} 0"#,
            r#"callbackd_publish_failures_total{queue="callbacks.ident.wait.6h"} 0"#,
            r#"callbackd_attempts_total{class="2xx",endpoint="main",integrator="acme",verdict="delivered"} 0"#,
            r#"callbackd_dead_letters_total{endpoint="main",integrator="acme",reason="exhausted"} 0"#,
            r#"callbackd_dead_letters_total{endpoint="(removed)",integrator="(removed)",reason="endpoint_removed"} 0"#,
            r#"callbackd_config_reloads_total{result="refused"} 0"#,
        ],
    );
}

#[test]
fn a_removed_endpoint_loses_its_series_and_never_gets_them_back() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.configured(&directory(&[("acme", "main"), ("acme", "other"), ("umbrella", "main")]));
    scene.record_everything(&telemetry);
    telemetry.configured(&directory(&[("acme", "other"), ("umbrella", "main")]));
    let of_acme_main = |text: &str| text.lines().filter(|line| line.contains(r#"endpoint="main",integrator="acme""#)).count();
    assert_eq!(of_acme_main(&telemetry.metrics_text()), 0);
    scene.record_everything(&telemetry);
    assert_eq!(of_acme_main(&telemetry.metrics_text()), 0, "an attempt that was in flight during the reload");
    assert_series(
        &telemetry,
        &[
            r#"callbackd_attempts_total{class="2xx",endpoint="(removed)",integrator="(removed)",verdict="delivered"} 1"#,
            r#"callbackd_dead_letters_total{endpoint="main",integrator="umbrella",reason="gone"} 0"#,
            r#"callbackd_dead_letters_total{endpoint="other",integrator="acme",reason="gone"} 0"#,
        ],
    );
}

#[test]
fn a_reload_that_keeps_an_endpoint_keeps_its_counts() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    for _ in 0..2 {
        telemetry.configured(&directory(&[("acme", "main")]));
        scene.dead_letter(&telemetry, DeadReason::Gone);
    }
    assert_series(&telemetry, &[r#"callbackd_dead_letters_total{endpoint="main",integrator="acme",reason="gone"} 2"#]);
}

#[test]
fn a_key_that_only_a_message_names_never_becomes_a_label() {
    let (mut scene, telemetry) = (Scene::new(), Telemetry::default());
    scene.integrator = IntegratorKey::try_new("stranger").unwrap();
    scene.record_everything(&telemetry);
    scene.dead_letter(&telemetry, DeadReason::EndpointRemoved);
    let text = telemetry.metrics_text();
    assert!(!text.contains("stranger"), "{text}");
    assert!(
        text.contains(&format!(
            r#"callbackd_dead_letters_total{{endpoint="{REMOVED}",integrator="{REMOVED}",reason="endpoint_removed"}} 1"#
        ))
    );
}

#[test]
fn gauges_go_up_and_down() {
    let telemetry = Telemetry::default();
    let (first, second) = (telemetry.in_flight_started(), telemetry.clone().in_flight_started());
    telemetry.lane_waiting_add(5);
    telemetry.lane_waiting_sub(2);
    telemetry.held_add(3);
    telemetry.held_bytes_add(3000);
    telemetry.held_bytes_sub(1000);
    telemetry.held_sub(1);
    drop(first);
    assert_eq!(telemetry.in_flight(), 1);
    assert_series(
        &telemetry,
        &["callbackd_in_flight 1", "callbackd_lane_waiting 3", "callbackd_held_events 2", "callbackd_held_bytes 2000"],
    );
    drop(second);
    assert_series(&telemetry, &["callbackd_in_flight 0"]);
}

#[test]
fn the_table_for_operators_lists_exactly_the_metrics_there_are() {
    let (scene, telemetry) = (Scene::new(), Telemetry::new(&config()));
    scene.record_everything(&telemetry);
    let text = telemetry.metrics_text();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
            let labels = labels(&text, name).into_iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            rows.insert(name, format!("| `{name}` | {kind} | {labels} | {help} |"));
        }
    }
    let document = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/METRICS.md"));
    let documented: BTreeSet<&str> =
        document.lines().filter(|line| line.starts_with("| `callbackd_") || line.starts_with("| `process_")).collect();
    let actual: BTreeSet<&str> = rows.values().map(String::as_str).collect();
    let all = rows.values().cloned().collect::<Vec<_>>().join("\n");
    assert_eq!(documented, actual, "the rows of deploy/METRICS.md must be these:\n{all}");
}

/// The labels of a metric's samples, without a histogram's `le`.
fn labels(text: &str, name: &str) -> BTreeSet<String> {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
    samples.flat_map(|(labels, _)| labels.split("\",").map(|label| label.split('=').next().unwrap_or_default().to_owned())).collect()
}
