//! What must not be printed, or not as it came in.

use std::time::Duration;

use bytes::Bytes;

use super::captured::{Captured, lines};
use super::scene::{CANARY, Scene, config, directory};
use crate::domain::dead::{DeadReason, RejectReason};
use crate::domain::decide::Verdict;
use crate::domain::decode::{Metadata, decode};
use crate::domain::integrator::SkipReason;
use crate::domain::names::{EventId, IntegratorKey, Topic};
use crate::domain::reply::Outcome;
use crate::telemetry::logging::{Shape, filter, subscriber};
use crate::telemetry::{Fact, Telemetry};

#[test]
fn text_from_outside_breaks_no_line_and_reaches_no_terminal() {
    let (mut scene, telemetry) = (Scene::new(), Telemetry::default());
    let evil = "a\nb\r\x1b[31mred\x07\u{9b}2J\u{7f}\u{2028}\u{202e}z";
    scene.id = EventId::try_new(evil).unwrap();
    scene.topic = Topic::try_new(evil).unwrap();
    scene.integrator = IntegratorKey::try_new(evil).unwrap();
    let record = || {
        scene.attempt(&telemetry, Outcome::Answered { status: 200, retry_after: None }, Verdict::Delivered);
        scene.dead_letter(&telemetry, DeadReason::Gone);
        telemetry.record(&Fact::BrokerLost { link: "publish", error: evil, retry_in: Duration::ZERO });
        telemetry.record(&Fact::ReloadRefused { problems: &[evil.to_owned()] });
        // The words of a library, as message and as field.
        tracing::warn!(target: "library", error = %evil, "{evil}");
    };
    for shape in [Shape::Human, Shape::Json] {
        let written = lines(shape, "info", record);
        assert_eq!(written.len(), 5, "{written:#?}");
        for line in &written[..4] {
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
    let human = lines(Shape::Human, "info", record);
    assert!(!human[4].chars().any(|c| c.is_control() || c == '\u{2028}'), "{:?}", human[4]);
    let json: serde_json::Value = serde_json::from_str(&lines(Shape::Json, "info", record)[1]).unwrap();
    assert_eq!(json["event_id"], evil.replace(['\u{9b}', '\u{7f}'], "\u{fffd}"), "all else is as it came in");
}

#[test]
fn payloads_secrets_and_urls_get_neither_into_the_log_nor_into_the_metrics() {
    let (scene, telemetry) = (Scene::new(), Telemetry::new(&config()));
    telemetry.configured(&directory(&[("acme", "main")]));
    let bodies: [&'static [u8]; 6] = [
        br#"CANARY"#,
        br#"{"topic":"t","integrator":"acme","data":"CANARY"}"#,
        br#"{"topic":{"CANARY":1},"integrator":"acme","data":[]}"#,
        br#"{"topic":"t","topic":"CANARY","data":[]}"#,
        br#"{"topic":"t","CANARY":"CANARY"}"#,
        b"{\"CANARY\xff\":1}",
    ];
    for shape in [Shape::Human, Shape::Json] {
        let written = lines(shape, "debug", || {
            scene.record_everything(&telemetry);
            for body in bodies {
                let fault = decode(Bytes::from_static(body), &Metadata::default()).unwrap_err();
                telemetry.record(&Fact::Rejected {
                    source: &scene.source,
                    event: None,
                    message_id: Some(CANARY),
                    endpoint: None,
                    reason: &RejectReason::Undecodable(fault),
                    replayed_at: None,
                });
            }
        });
        assert!(written.len() > bodies.len());
        let leaks: Vec<&String> = written.iter().filter(|line| line.contains(CANARY)).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
    assert!(!telemetry.metrics_text().contains(CANARY));
    assert!(
        !format!("{telemetry:?} {:?}", Fact::Skipped { event: scene.event(), endpoint: &scene.endpoint, reason: SkipReason::NoRecords })
            .contains(CANARY)
    );
}

#[test]
fn returned_messages_and_frames_of_the_client_library_are_never_printed() {
    for directive in ["trace", "lapin=trace,debug", "lapin::returned_messages=warn"] {
        let written = lines(Shape::Json, directive, || {
            tracing::warn!(target: "lapin::returned_messages", message = CANARY);
            tracing::trace!(target: "lapin::io_loop", frame = CANARY);
            tracing::trace!(target: "callbackd", frame = CANARY);
        });
        assert_eq!(written, Vec::<String>::new(), "{directive}");
    }
}

#[test]
fn colour_is_only_in_what_we_add() {
    let captured = Captured::default();
    let writer = captured.clone();
    let coloured = subscriber(Shape::Human, true, filter("test", "info").unwrap(), move || writer.clone());
    tracing::subscriber::with_default(coloured, || {
        Telemetry::default().record(&Fact::BrokerBlocked { reason: "\x1b[31mCANARY" });
    });
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains('\x1b') && text.contains(r"\u{1b}[31mCANARY"), "{text:?}");
}
