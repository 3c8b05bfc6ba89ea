//! The scenes: each provokes one flaw, in a few seconds, and by facts rather than by luck.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::Flaw;
use super::bare::{CHARACTER, DEAD, IN_FLIGHT, ROUTE, WAIT, WAIT_TIME, WORK, event, wait_queue};
use crate::broker::{Desk, Node};
use crate::child::Child;
use crate::event::{Character, Event};
use crate::judge::{Judgement, Terms, judge};
use crate::ledger::{Entry, Ledger, now};
use crate::proxy::{Side, TcpProxy};
use crate::publisher::{Outlet, publish_all};
use crate::receiver::{Answer, Receiver, Script};

const TERMS: Terms =
    Terms { initial: WAIT_TIME, multiplier: 1.0, max_delay: WAIT_TIME, jitter: 0.0, max_attempts: 3, recovery: Duration::from_secs(5) };
/// Deliveries that an honest bare worker has in flight: requests, and acknowledgements on their way.
const HELD: u32 = 2 * IN_FLIGHT as u32;
const LIMIT: Duration = Duration::from_secs(40);
const STILL: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(25);
const EVENTS: u64 = 60;

/// A virtual host, a receiver and a bare worker that is started again whenever it ends.
struct Scene {
    node: Node,
    vhost: String,
    ledger: Arc<Ledger>,
    receiver: Receiver,
    /// Through which the worker publishes.
    link: TcpProxy,
    program: PathBuf,
    folder: PathBuf,
    who: (Flaw, bool),
    child: Option<Child>,
}

/// Plays the scene of a flaw, with a worker that has it or an honest one.
pub(super) async fn play(node: Node, program: &Path, folder: &Path, who: (Flaw, bool)) -> anyhow::Result<Judgement> {
    let mut scene = Scene::set(node, program, folder, who).await?;
    match who.0 {
        Flaw::AckBeforePost => scene.killed_in_the_middle().await?,
        Flaw::AckBeforeConfirm => scene.cut_before_the_confirm().await?,
        Flaw::IgnoreReturned => scene.without_a_wait_queue().await?,
        Flaw::IgnoreNack | Flaw::DropWhenFull => scene.flooded().await?,
        Flaw::AtMostOnceWait => scene.nowhere_to_come_back_to().await?,
        Flaw::AckBeforeReplay => scene.replay_cut_off().await?,
        Flaw::OneChannel => scene.killed_during_an_alarm().await?,
    }
    scene.end().await
}

fn slow(_: Character, _: Event, _: u32) -> Answer {
    Answer { status: 200, after: Duration::from_millis(100) }
}

fn good(_: Character, _: Event, _: u32) -> Answer {
    Answer::status(200)
}

fn second_try(_: Character, _: Event, before: u32) -> Answer {
    Answer { status: if before == 0 { 500 } else { 200 }, after: Duration::ZERO }
}

/// So slowly that there is time to break something.
fn second_try_slowly(_: Character, _: Event, before: u32) -> Answer {
    Answer { status: if before == 0 { 500 } else { 200 }, after: Duration::from_millis(50) }
}

fn first_event_fails_once(_: Character, event: Event, before: u32) -> Answer {
    Answer::status(if event.0 == 0 && before == 0 { 500 } else { 200 })
}

impl Scene {
    async fn set(node: Node, program: &Path, folder: &Path, who: (Flaw, bool)) -> anyhow::Result<Self> {
        let vhost = format!("{}-{}", who.0.name(), if who.1 { "flawed" } else { "honest" });
        node.manage(reqwest::Method::PUT, &format!("vhosts/{vhost}"), Some(json!({}))).await?;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        node.manage(reqwest::Method::PUT, &format!("permissions/{vhost}/guest"), Some(all)).await?;
        let script: Script = match who.0 {
            Flaw::AckBeforePost | Flaw::DropWhenFull => slow,
            Flaw::AckBeforeReplay => good,
            Flaw::OneChannel => first_event_fails_once,
            Flaw::AckBeforeConfirm => second_try_slowly,
            Flaw::IgnoreReturned | Flaw::IgnoreNack | Flaw::AtMostOnceWait => second_try,
        };
        let ledger = Arc::new(Ledger::create(&folder.join(format!("{vhost}.jsonl")))?);
        let receiver = Receiver::start(Arc::clone(&ledger), script).await?;
        let link = TcpProxy::to(format!("127.0.0.1:{}", node.port()));
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let scene = Self { node, vhost, ledger, receiver, link, program, folder, who, child: None };
        scene.declare().await?;
        Ok(scene)
    }

    fn url(&self) -> String {
        Node::url_at(self.node.port(), &self.vhost)
    }

    async fn declare(&self) -> anyhow::Result<()> {
        let desk = Desk::open(&self.url()).await?;
        let channel = desk.channel().await?;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let at_least_once = self.who != (Flaw::AtMostOnceWait, true);
        let longest = (self.who.0 == Flaw::IgnoreNack).then_some(10);
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        for (queue, arguments) in [(WORK, quorum.clone()), (DEAD, quorum), (WAIT, wait_queue(at_least_once, longest))] {
            channel.queue_declare(queue.into(), durable, arguments).await?;
        }
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(ROUTE.into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        if self.who.0 != Flaw::AtMostOnceWait {
            self.bind(&desk).await?;
        }
        Ok(())
    }

    async fn bind(&self, desk: &Desk) -> anyhow::Result<()> {
        let channel = desk.channel().await?;
        Ok(channel.queue_bind(WORK.into(), ROUTE.into(), WORK.into(), QueueBindOptions::default(), FieldTable::default()).await?)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        let publish = Node::url_at(self.link.address().port(), &self.vhost);
        command.arg("bare").arg(self.url()).arg(publish);
        command.arg(format!("http://{}{}", self.receiver.address(), CHARACTER.path()));
        if self.who.1 {
            command.arg("--flaw").arg(self.who.0.name());
        }
        if self.who.0 == Flaw::AckBeforeReplay {
            command.arg("--replay");
        }
        self.child = Some(Child::start("the bare worker", &self.folder.join(format!("{}.log", self.vhost)), command)?);
        Ok(())
    }

    async fn publish(&self, queue: &str, events: u64) {
        let outlet = Outlet { amqp: self.url(), exchange: String::new(), key: queue.to_owned() };
        publish_all(&outlet, &self.ledger, (0..events).map(event), Event::golden).await;
    }

    /// Waits until a fact, and keeps the worker running meanwhile.
    async fn until(&mut self, what: &str, fact: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !fact(self) {
            if Instant::now() >= deadline {
                bail!("not within {LIMIT:?}: {what}");
            }
            self.revive()?;
            sleep(POLL).await;
        }
        Ok(())
    }

    fn revive(&mut self) -> anyhow::Result<()> {
        if self.child.as_mut().is_some_and(|child| child.ensure_runs().is_err()) { self.start() } else { Ok(()) }
    }

    fn strikes(&self, fault: &str) {
        self.ledger.write(Entry::FaultBegins { fault: fault.to_owned(), in_flight: HELD });
    }

    fn is_over(&self) {
        self.ledger.write(Entry::FaultEnds);
    }

    async fn killed_in_the_middle(&mut self) -> anyhow::Result<()> {
        self.publish(WORK, EVENTS).await;
        self.start()?;
        self.until("some events have come", |scene| scene.receiver.distinct() >= 8).await?;
        self.strikes("SIGKILL");
        drop(self.child.take());
        self.start()?;
        self.is_over();
        Ok(())
    }

    async fn cut_before_the_confirm(&mut self) -> anyhow::Result<()> {
        self.publish(WORK, EVENTS).await;
        self.start()?;
        self.until("the worker works", |scene| scene.receiver.distinct() > 0).await?;
        self.strikes("nothing that is published leaves, then the connection is cut");
        self.link.hold_from_client(true);
        // Long enough for all events, if the worker does not wait for what it publishes.
        sleep(Duration::from_secs(1)).await;
        self.link.cut();
        self.link.hold_from_client(false);
        self.is_over();
        Ok(())
    }

    async fn without_a_wait_queue(&mut self) -> anyhow::Result<()> {
        let lost = Desk::open(&self.url()).await?.delete_queue(WAIT).await?;
        ensure!(lost == 0, "the wait queue was not empty");
        self.publish(WORK, EVENTS).await;
        self.start()
    }

    async fn flooded(&mut self) -> anyhow::Result<()> {
        self.publish(WORK, EVENTS).await;
        self.start()
    }

    async fn nowhere_to_come_back_to(&mut self) -> anyhow::Result<()> {
        self.publish(WORK, EVENTS).await;
        self.start()?;
        self.until("every event was tried once", |scene| scene.receiver.distinct() == EVENTS).await?;
        // Until the last one has waited its time.
        sleep(WAIT_TIME * 3).await;
        self.bind(&Desk::open(&self.url()).await?).await?;
        // What is to be forwarded again may not be counted meanwhile.
        sleep(Duration::from_secs(4)).await;
        Ok(())
    }

    async fn replay_cut_off(&mut self) -> anyhow::Result<()> {
        self.publish(DEAD, EVENTS).await;
        self.strikes("the connection is cut before the copy of an event in the middle");
        self.link.cut_before(Side::Client, event(EVENTS / 2).id().as_bytes());
        self.start()?;
        self.until("the copy is on its way", |scene| !scene.link.is_armed()).await?;
        self.is_over();
        Ok(())
    }

    async fn killed_during_an_alarm(&mut self) -> anyhow::Result<()> {
        self.publish(WORK, EVENTS).await;
        self.node.ctl(&["set_vm_memory_high_watermark", "0.0001"]).await?;
        sleep(Duration::from_secs(2)).await;
        self.start()?;
        self.until("every event was tried", |scene| scene.receiver.distinct() == EVENTS).await?;
        sleep(Duration::from_millis(500)).await;
        self.strikes("SIGKILL during an alarm");
        drop(self.child.take());
        self.is_over();
        sleep(Duration::from_secs(2)).await;
        self.node.ctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]).await?;
        self.start()
    }

    /// Waits until nothing moves, and judges.
    async fn end(mut self) -> anyhow::Result<Judgement> {
        let desk = Desk::open(&self.url()).await?;
        let (deadline, mut since) = (Instant::now() + LIMIT, Instant::now());
        while since.elapsed() < STILL && Instant::now() < deadline {
            self.revive()?;
            let open = desk.ready(WORK).await? + desk.ready(WAIT).await?;
            let requests = Duration::from_micros(now().saturating_sub(self.receiver.last_seen())) < STILL;
            if open > 0 || requests {
                since = Instant::now();
            }
            sleep(POLL * 4).await;
        }
        drop(self.child.take());
        // What it had not acknowledged is back when its connection is gone.
        sleep(Duration::from_millis(500)).await;
        for queue in self.node.queues(&self.vhost).await? {
            desk.drain(&queue, &self.ledger).await?;
        }
        self.node.manage(reqwest::Method::DELETE, &format!("vhosts/{}", self.vhost), None).await?;
        Ok(judge(&self.ledger.read()?, &TERMS))
    }
}
