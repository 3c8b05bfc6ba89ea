//! Endpoints that are left alone.

use std::time::Duration;

use super::captured::{assert_series, lines};
use super::scene::{Scene, directory};
use crate::clock;
use crate::domain::circuit::TripCause;
use crate::domain::time::Timestamp;
use crate::telemetry::logging::Shape;
use crate::telemetry::{Fact, ResumeCause, Telemetry};

/// The value of a metric's series at the scene's endpoint, where there is one.
fn at_the_endpoint(telemetry: &Telemetry, metric: &str) -> Option<i64> {
    let series = format!(r#"callbackd_circuit_{metric}{{endpoint="main",integrator="acme"}} "#);
    telemetry.metrics_text().lines().find_map(|line| line.strip_prefix(&series)).map(|value| value.parse().unwrap())
}

#[test]
fn a_circuit_shows_its_state_since_when_and_its_next_probe() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.configured(&directory(&[("acme", "main")]));
    let shown = |metric| at_the_endpoint(&telemetry, metric);
    assert_eq!((shown("state"), shown("openings_total")), (None, None), "an endpoint without trouble has no series");
    let before = clock::now().seconds();
    scene.opened(&telemetry, TripCause::FailureRate);
    assert_eq!((shown("state"), shown("openings_total")), (Some(1), Some(1)));
    assert!((before..before + 60).contains(&shown("since_timestamp_seconds").unwrap()));
    assert!((before + 5..before + 65).contains(&shown("next_probe_timestamp_seconds").unwrap()));
    telemetry.record(&Fact::CircuitProbing { endpoint: &scene.endpoint });
    assert_eq!((shown("state"), shown("next_probe_timestamp_seconds")), (Some(2), None));
    scene.opened(&telemetry, TripCause::Probe);
    assert_eq!((shown("state"), shown("openings_total")), (Some(1), Some(1)), "a probe that failed opens nothing anew");
    scene.paused(&telemetry, Duration::from_secs(600));
    assert_eq!(shown("state"), Some(3));
    assert!((before + 600..before + 660).contains(&shown("next_probe_timestamp_seconds").unwrap()));
    telemetry.record(&Fact::EndpointResumed { endpoint: &scene.endpoint, cause: ResumeCause::TimeOver });
    assert_eq!(shown("state"), Some(1), "what the pause has hidden");
    telemetry.record(&Fact::CircuitClosed { endpoint: &scene.endpoint, open_for: Duration::from_secs(5) });
    assert_eq!((shown("state"), shown("next_probe_timestamp_seconds"), shown("openings_total")), (Some(0), None, Some(1)));
}

#[test]
fn a_removed_endpoint_has_no_circuit_to_show() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    telemetry.configured(&directory(&[("acme", "main")]));
    scene.opened(&telemetry, TripCause::Consecutive);
    telemetry.configured(&directory(&[("acme", "other")]));
    scene.opened(&telemetry, TripCause::Consecutive);
    scene.paused(&telemetry, Duration::from_secs(60));
    for metric in ["state", "since_timestamp_seconds", "next_probe_timestamp_seconds", "openings_total"] {
        assert_eq!(at_the_endpoint(&telemetry, metric), None, "{metric}");
    }
    assert_series(&telemetry, &[r#"callbackd_circuit_openings_total{endpoint="(removed)",integrator="(removed)"} 1"#]);
    telemetry.configured(&directory(&[("acme", "main")]));
    scene.paused(&telemetry, Duration::from_secs(60));
    assert_eq!((at_the_endpoint(&telemetry, "state"), at_the_endpoint(&telemetry, "openings_total")), (Some(3), None));
}

#[test]
fn a_circuit_and_a_pause_say_everything_about_themselves() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let json = lines(Shape::Json, "info", || {
        scene.opened(&telemetry, TripCause::Consecutive);
        scene.paused(&telemetry, Duration::from_secs(60));
        telemetry.record(&Fact::EndpointResumed { endpoint: &scene.endpoint, cause: ResumeCause::TimeOver });
        telemetry.record(&Fact::CircuitClosed { endpoint: &scene.endpoint, open_for: Duration::from_secs(7) });
    });
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let [opened, paused, resumed, closed] = json.iter().map(read).collect::<Vec<_>>().try_into().unwrap();
    for line in [&opened, &paused, &resumed, &closed] {
        assert_eq!((&line["integrator"], &line["endpoint"]), (&"acme".into(), &"main".into()), "{line}");
    }
    let expected = (&"WARN".into(), &"consecutive".into(), &10.into(), &5000.into());
    assert_eq!((&opened["level"], &opened["cause"], &opened["failures"], &opened["wait_ms"]), expected, "{opened}");
    for at in [&opened["next_probe_at"], &paused["until"]] {
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z') && Timestamp::parse(at).is_some()), "{at}");
    }
    assert_eq!((&paused["level"], &resumed["level"], &resumed["cause"]), (&"WARN".into(), &"INFO".into(), &"time_over".into()));
    assert_eq!((&closed["level"], &closed["open_for_ms"]), (&"INFO".into(), &7000.into()), "{closed}");
}
