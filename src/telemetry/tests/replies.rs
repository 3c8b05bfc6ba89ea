//! What comes of attempts, as labels.

use std::collections::BTreeSet;
use std::time::Duration;

use super::scene::Scene;
use crate::domain::auth::AuthFault;
use crate::domain::dead::DeadReason;
use crate::domain::decide::Verdict;
use crate::domain::reply::{Failure, Forbidden, Outcome, Reply, TlsFault};
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::deliveries::{CLASSES, OTHER_STATUS, VERDICTS, verdict_index};

#[test]
fn every_class_of_reply_is_counted() {
    let (scene, telemetry) = (Scene::new(), Telemetry::default());
    let answers = [200, 301, 404, 500, 100].map(|status| Outcome::Answered { status, retry_after: None });
    for outcome in answers.into_iter().chain(failures().map(Outcome::Failed)) {
        scene.attempt(&telemetry, outcome, Verdict::Dead(DeadReason::Expired));
    }
    let text = telemetry.metrics_text();
    let counted = |class: &&str| text.lines().any(|line| line.contains(&format!("class=\"{class}\"")) && line.ends_with(" 1"));
    assert_eq!(CLASSES.iter().filter(|class| counted(class)).count(), CLASSES.len(), "{text}");
}

#[test]
fn the_labels_of_attempts_are_exactly_what_replies_and_verdicts_can_say() {
    let answers = (0..=u16::MAX).map(|status| Outcome::Answered { status, retry_after: None });
    let replies = answers.chain(failures().map(Outcome::Failed)).map(|outcome| Reply { outcome, took: Duration::ZERO });
    let said: BTreeSet<&str> = replies.map(|reply| reply.class()).collect();
    assert_eq!(said, CLASSES.into_iter().collect());
    assert_eq!(CLASSES[OTHER_STATUS], "other_status");
    for verdict in [Verdict::Delivered, Verdict::Retry(Scene::new().wait), Verdict::Dead(DeadReason::Gone)] {
        assert_eq!(VERDICTS[verdict_index(&verdict)], verdict.as_str());
    }
}

/// Every failure there is: a new one does not compile until it stands here too.
fn failures() -> impl Iterator<Item = Failure> {
    std::iter::successors(Some(Failure::Timeout), |failure| match failure {
        Failure::Timeout => Some(Failure::Dns),
        Failure::Dns => Some(Failure::Connect),
        Failure::Connect => Some(Failure::Tls(TlsFault::Other)),
        Failure::Tls(TlsFault::Other) => Some(Failure::Tls(TlsFault::Expired)),
        Failure::Tls(TlsFault::Expired) => Some(Failure::Tls(TlsFault::UnknownIssuer)),
        Failure::Tls(TlsFault::UnknownIssuer) => Some(Failure::Tls(TlsFault::ClientCertificateMissing)),
        Failure::Tls(_) => Some(Failure::Blocked(Forbidden::Url)),
        Failure::Blocked(_) => Some(Failure::Auth(AuthFault::NoToken)),
        Failure::Auth(_) => Some(Failure::Disconnected),
        Failure::Disconnected => Some(Failure::NotHttp),
        Failure::NotHttp => Some(Failure::Local),
        Failure::Local => Some(Failure::Proxy),
        Failure::Proxy => Some(Failure::Other),
        Failure::Other => None,
    })
}
