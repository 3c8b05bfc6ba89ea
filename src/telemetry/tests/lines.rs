//! Facts as lines of the log.

use std::time::Duration;

use super::captured::{assert_series, lines};
use super::scene::Scene;
use crate::domain::dead::DeadReason;
use crate::domain::decide::Verdict;
use crate::domain::names::EventId;
use crate::domain::reply::Outcome;
use crate::domain::time::Timestamp;
use crate::telemetry::logging::Shape;
use crate::telemetry::{EventOutcome, Fact, Telemetry, WaitCause};

#[test]
fn every_fact_writes_exactly_one_line_in_both_shapes() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let mut expected = Vec::new();
    let json = lines(Shape::Json, "debug", || expected = scene.record_everything(&telemetry));
    let messages: Vec<String> =
        json.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, expected);
    let human = lines(Shape::Human, "debug", || drop(scene.record_everything(&telemetry)));
    assert_eq!(human.len(), expected.len(), "{human:#?}");
    for (line, message) in human.iter().zip(expected) {
        let target = if message == "audit" { "callbackd::audit" } else { "callbackd" };
        assert!(line.contains(&format!(" {target}: {message}")), "{line}");
    }
}

#[test]
fn an_attempt_says_everything_about_itself() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let json = lines(Shape::Json, "info", || {
        scene.attempt(&telemetry, Outcome::Answered { status: 503, retry_after: None }, Verdict::Retry(scene.wait));
        scene.attempt(&telemetry, Outcome::Answered { status: 204, retry_after: None }, Verdict::Delivered);
    });
    let [retry, delivered] = json.as_slice() else { panic!("{json:#?}") };
    let retry: serde_json::Value = serde_json::from_str(retry).unwrap();
    for (field, expected) in [
        ("level", "INFO"),
        ("target", "callbackd"),
        ("event_id", "evt-1"),
        ("integrator", "acme"),
        ("endpoint", "main"),
        ("topic", "identResult"),
        ("webhook_id", "msg_1"),
        ("class", "5xx"),
        ("verdict", "retry"),
    ] {
        assert_eq!(retry[field], expected, "{field} in {retry}");
    }
    assert_eq!((&retry["attempt"], &retry["status"], &retry["took_ms"]), (&2.into(), &503.into(), &42.into()), "{retry}");
    // The rung for a minute is 64 s.
    assert!((60_000..=64_000).contains(&retry["retry_in_ms"].as_u64().unwrap()), "{retry}");
    for at in ["due_at", "timestamp"] {
        assert!(retry[at].as_str().is_some_and(|at| at.ends_with('Z') && Timestamp::parse(at).is_some()), "{at} in {retry}");
    }
    let delivered: serde_json::Value = serde_json::from_str(delivered).unwrap();
    assert_eq!((&delivered["latency_ms"], delivered.get("due_at")), (&7000.into(), None), "{delivered}");
}

#[test]
fn what_waits_has_a_line_and_a_count_and_only_the_unusual_is_told_by_default() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let told = |directive| {
        let json = lines(Shape::Json, directive, || WaitCause::ALL.into_iter().for_each(|cause| scene.waits(&telemetry, cause)));
        let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
        json.iter().map(read).inspect(|line| assert_eq!(line["message"], "waits")).collect::<Vec<_>>()
    };
    let causes = |told: &[serde_json::Value]| told.iter().map(|line| line["cause"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all = told("debug");
    assert_eq!(causes(&all), WaitCause::ALL.map(WaitCause::as_str));
    for (field, expected) in [("event_id", "evt-1"), ("integrator", "acme"), ("endpoint", "main"), ("topic", "identResult")] {
        assert_eq!(all[0][field], expected, "{field} in {}", all[0]);
    }
    assert!((60_000..=64_000).contains(&all[0]["retry_in_ms"].as_u64().unwrap()), "{}", all[0]);
    assert_eq!(causes(&told("info")), ["configuration", "stopping"]);
    for cause in WaitCause::ALL {
        assert_series(&telemetry, &[&format!(r#"callbackd_waits_total{{cause="{}"}} 2"#, cause.as_str())]);
    }
}

#[test]
fn a_settled_message_names_its_event_where_it_has_one() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let json = lines(Shape::Json, "debug", || {
        for event in [Some(scene.event()), None] {
            telemetry.record(&Fact::Settled { source: &scene.source, event, outcome: EventOutcome::Rejected });
        }
    });
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    assert_eq!((read(&json[0]).get("event_id"), read(&json[1]).get("event_id")), (Some(&"evt-1".into()), None));
}

#[test]
fn long_ids_are_cut_at_a_character() {
    let (mut scene, telemetry) = (Scene::new(), Telemetry::default());
    scene.id = EventId::try_new(format!("x{}", "ä".repeat(500))).unwrap();
    let json = lines(Shape::Json, "info", || scene.dead_letter(&telemetry, DeadReason::Gone));
    let line: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(line["event_id"], format!("x{}…", "ä".repeat(99)));
}

#[test]
fn the_reason_for_a_lost_link_may_be_long() {
    let json = lines(Shape::Json, "info", || {
        for length in [2000, 2001] {
            Telemetry::default().record(&Fact::BrokerLost { link: "publish", error: &"e".repeat(length), retry_in: Duration::ZERO });
        }
    });
    let shown = json.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["error"].as_str().unwrap().to_owned());
    assert_eq!(shown.collect::<Vec<_>>(), ["e".repeat(2000), format!("{}…", "e".repeat(2000))]);
}
