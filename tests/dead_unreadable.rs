//! Messages in an operator's queue that the client library cannot read, on a real broker.

mod support;

use std::time::Duration;

use callbackd::cli::CliError;
use support::{Buried, DEAD, Stage, assert_numbers, numbers, publish_poison};

const SOON: Duration = Duration::from_secs(20);

/// Runs a command that must fail because of the message that cannot be read, and returns what it printed before that.
async fn cut_short(stage: &Stage, arguments: &[&str]) -> String {
    let (out, failed) = support::dead_with_output(&stage.config, arguments).await;
    assert!(matches!(&failed, Err(CliError::Failed(text)) if text.contains("callbacks.dead cannot be read")), "{arguments:?}: {failed:?}");
    out
}

#[tokio::test]
async fn what_stands_before_a_message_that_cannot_be_read_can_be_worked_with() {
    let stage = Stage::set().await;
    // More than one window before it.
    stage.bury_many(605).await;
    publish_poison(&stage.vhost.url(), DEAD).await;
    stage.bury(&Buried { integrator: "beta", ..Buried::new(606) }).await;

    let listed = cut_short(&stage, &["list", "--json"]).await;
    assert_eq!(listed.lines().count(), 605);
    assert!(stage.run(&["show", "--event", "evt-2"]).await.contains("evt-2"));
    assert_eq!(cut_short(&stage, &["show", "--event", "evt-700"]).await, "");
    assert_eq!(cut_short(&stage, &["list", "--json"]).await.lines().count(), 606);
    assert_eq!(cut_short(&stage, &["replay", "--dry-run"]).await, "would replay 606\n");
    assert_eq!(cut_short(&stage, &["discard", "--all", "--dry-run"]).await, "would discard 606\n");
    assert_eq!(cut_short(&stage, &["replay", "--integrator", "beta", "--limit", "300"]).await, "replayed 300, failed 0\n");
    assert_eq!(cut_short(&stage, &["discard", "--integrator", "acme", "--yes"]).await, "discarded 303\n");
    stage.amqp.wait_ready(DEAD, 4, SOON).await;
    let mut found = numbers(&stage.amqp.drain_when("callbacks.compliance.due", 300, SOON).await);
    assert_eq!(stage.run(&["discard", "--unreadable", "--yes"]).await, "discarded message 4, which could not be read\n");
    stage.amqp.wait_ready(DEAD, 3, SOON).await;
    found.extend(numbers(&stage.amqp.drain(DEAD).await));
    found.sort_unstable();
    assert_numbers(&found, (2..=606).step_by(2));
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_pointed_at_and_can_be_taken_out() {
    let stage = Stage::set().await;
    assert_eq!(stage.run(&["discard", "--unreadable", "--yes"]).await, "every message of callbacks.dead can be read\n");
    stage.bury_many(3).await;
    publish_poison(&stage.vhost.url(), DEAD).await;
    stage.bury(&Buried::new(4)).await;
    let place = "It stands last now, as message 5";
    for (command, printed) in [
        (&["replay", "--dry-run"][..], "would replay 4\n"),
        (&["discard", "--all", "--dry-run"], "would discard 4\n"),
        (&["replay", "--event", "evt-9"], "replayed 0, failed 0\n"),
        (&["show", "--event", "evt-9"], ""),
    ] {
        let (out, failed) = support::dead_with_output(&stage.config, command).await;
        assert!(matches!(&failed, Err(CliError::Failed(text)) if text.contains(place)), "{command:?}: {failed:?}");
        assert_eq!(out, printed, "{command:?}");
    }
    publish_poison(&stage.vhost.url(), DEAD).await;
    stage.bury(&Buried::new(5)).await;
    stage.amqp.wait_ready(DEAD, 7, SOON).await;
    let unreadable = ["discard", "--unreadable"];
    assert_eq!(stage.run(&[&unreadable[..], &["--dry-run"]].concat()).await, "would discard message 5, which cannot be read\n");
    for ready in [7, 6] {
        stage.amqp.wait_ready(DEAD, ready, SOON).await;
        let out = stage.run(&[&unreadable[..], &["--yes"]].concat()).await;
        assert!(out.starts_with("discarded message ") && out.ends_with(", which could not be read\n"), "{out}");
    }
    stage.amqp.wait_ready(DEAD, 5, SOON).await;
    let mut left = numbers(&stage.amqp.drain(DEAD).await);
    left.sort_unstable();
    assert_numbers(&left, 1..=5);
}

#[tokio::test]
async fn of_two_messages_that_cannot_be_read_each_run_puts_one_last() {
    let stage = Stage::set().await;
    for number in 1..=3 {
        stage.bury(&Buried::new(number)).await;
        publish_poison(&stage.vhost.url(), DEAD).await;
    }
    let mut replayed = 0;
    for _ in 0..4 {
        let (out, failed) = support::dead_with_output(&stage.config, &["replay"]).await;
        assert!(matches!(&failed, Err(CliError::Failed(text)) if text.contains("cannot be read")), "{failed:?}");
        let count = out.strip_prefix("replayed ").and_then(|rest| rest.split(',').next()).expect("a count");
        replayed += count.parse::<u32>().expect("a number");
    }
    assert_eq!(replayed, 3);
    let mut due = numbers(&stage.amqp.drain_when("callbacks.compliance.due", 3, SOON).await);
    due.sort_unstable();
    assert_numbers(&due, 1..=3);
}
