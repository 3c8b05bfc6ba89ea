//! Replays and discards that go on without who asked for them, on a real broker and with both databases.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use callbackd::clock;
use callbackd::config::{BrokerUrl, Config, Database as Configured};
use callbackd::domain::time::Timestamp;
use callbackd::letters::{Filter, Job, JobId, JobKind, JobSpec, JobState, Jobs, Queue, Refused};
use callbackd::telemetry::{Fact, Observer, Telemetry};
use futures_util::StreamExt as _;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use support::{Buried, DEAD, Database, Stage, TcpProxy, assert_numbers, eventually, numbers, publish_poison, with_both};

const DUE: &str = "callbacks.compliance.due";
const SOON: Duration = Duration::from_secs(40);

with_both!(
    the_job_of_a_worker_that_is_gone_is_interrupted_and_any_other_goes_on_with_it,
    another_worker_sees_a_job_and_cancels_it,
    what_is_over_is_remembered_by_the_database,
    a_job_that_another_worker_has_claimed_ends_here,
);

/// Notes what is told of jobs.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn see(&self, fact: &Fact<'_>) {
        let note = match fact {
            Fact::Audited { actor, action, detail } => format!("{actor}: {action}: {}", detail.unwrap_or_default()),
            Fact::JobEnded { job } => format!("ended {}", job.state.as_str()),
            Fact::JobsNotRecorded { .. } => "not recorded".to_owned(),
            Fact::JobsRecorded => "recorded".to_owned(),
            _ => return,
        };
        self.0.lock().unwrap().push(note);
    }
}

impl Notes {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, note: &str) -> usize {
        self.all().iter().filter(|line| *line == note).count()
    }
}

fn noted(config: &Config, worker: &str) -> (Jobs, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    (Jobs::new(Arc::new(config.clone()), Telemetry::default().observed_by(notes.clone()), worker.to_owned()), notes)
}

/// Jobs that live in memory alone.
fn jobs(stage: &Stage) -> Jobs {
    noted(&without_database(stage), "worker").0
}

fn without_database(stage: &Stage) -> Config {
    let mut config = stage.config.clone();
    config.delivery_log.database = None;
    config
}

fn with_database(stage: &Stage, database: &Database) -> Config {
    let mut config = stage.config.clone();
    let at = if database.is_file() { Configured::Sqlite(database.file()) } else { Configured::Postgres(database.url().into()) };
    config.delivery_log.database = Some(at);
    config
}

fn replay(rate: u32) -> JobSpec {
    JobSpec { kind: JobKind::Replay, queue: Queue::Dead, filter: Filter::default(), rate: Some(rate), all: false }
}

fn of(integrator: &str) -> Filter {
    Filter { integrator: Some(integrator.to_owned()), ..Filter::default() }
}

async fn until(jobs: &Jobs, id: &JobId, what: &str, fits: impl Fn(&Job) -> bool) -> Job {
    eventually(what, SOON, async || {
        let job = jobs.get(id).await.map_err(|refused| refused.to_string())?;
        if fits(&job) { Ok(job) } else { Err(format!("{job:?}")) }
    })
    .await
}

async fn over(jobs: &Jobs, id: &JobId) -> Job {
    until(jobs, id, "the job is over", |job| !job.state.is_open()).await
}

fn figures(job: &Job) -> (u64, u64, u64) {
    (job.progress.fitting, job.progress.done, job.progress.failed)
}

/// What came into the queue of due deliveries, sorted.
async fn replayed(stage: &Stage, count: usize) -> Vec<u32> {
    let mut replayed = numbers(&stage.amqp.drain_when(DUE, count, SOON).await);
    replayed.sort_unstable();
    replayed
}

#[tokio::test]
async fn what_comes_while_somebody_is_asked_is_not_part_of_the_answer() {
    let stage = Stage::set().await;
    let asked_at = Timestamp::from_millis(clock::now().millis() - 60_000);
    let (before, after) = (Timestamp::from_millis(asked_at.millis() - 1), clock::now());
    for number in 1..=5 {
        stage.bury(&Buried { at: if number <= 3 { before } else { after }, ..Buried::new(number) }).await;
    }
    let jobs = jobs(&stage);
    // They were told of four, one of which somebody else has taken meanwhile.
    let filter = Filter { limit: Some(4), ..Filter::default() };
    let spec = JobSpec { kind: JobKind::Discard, filter, rate: None, all: true, ..replay(1) };
    let job = jobs.start_as_of(spec, "ops", asked_at).unwrap();
    let job = over(&jobs, &job.id).await;
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (3, 3, 0)), "{job:?}");
    stage.amqp.wait_ready(DEAD, 2, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), 4..=5);
}

#[tokio::test]
async fn a_job_that_saw_an_empty_queue_says_so() {
    let stage = Stage::set().await;
    let jobs = jobs(&stage);
    let job = jobs.start(replay(5000), "ops").unwrap();
    let job = over(&jobs, &job.id).await;
    assert!(job.state == JobState::Done && job.note.as_deref().unwrap_or_default().contains("the queue was empty"), "{job:?}");
}

#[tokio::test]
async fn a_job_on_a_queue_that_another_pass_holds_fails_and_is_resumed_when_that_is_over() {
    let stage = Stage::set().await;
    stage.bury_many(6).await;
    let holder = Holder::of(&stage, 6).await;
    let jobs = jobs(&stage);
    let job = jobs.start(replay(5000), "ops").unwrap();
    let job = over(&jobs, &job.id).await;
    let why =
        "somebody else has letters of this queue in hand, so no letter was seen and nothing was done: resume the job when they are through";
    assert_eq!(job.state, JobState::Failed { why: why.to_owned() }, "{job:?}");
    assert_eq!((figures(&job), &job.note), ((0, 0, 0), &None));
    holder.ends(&stage, 6).await;
    let job = jobs.resume(&job.id, "ops").await.unwrap();
    let job = over(&jobs, &job.id).await;
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (6, 6, 0)), "{job:?}");
    assert_numbers(&replayed(&stage, 6).await, 1..=6);
}

#[tokio::test]
async fn a_job_that_sees_only_what_another_pass_left_says_how_much_it_has_done() {
    let stage = Stage::set().await;
    stage.bury_many(6).await;
    let holder = Holder::of(&stage, 4).await;
    let jobs = jobs(&stage);
    let job = jobs.start(replay(5000), "ops").unwrap();
    let job = over(&jobs, &job.id).await;
    let JobState::Failed { why } = &job.state else { panic!("{job:?}") };
    assert!(why.contains("2 are done and others may not have been seen"), "{why}");
    assert_eq!(figures(&job), (2, 2, 0));
    holder.ends(&stage, 4).await;
}

#[tokio::test]
async fn a_job_waits_for_a_short_look_of_somebody_else() {
    let stage = Stage::set().await;
    stage.bury_many(6).await;
    let holder = Holder::of(&stage, 6).await;
    let jobs = jobs(&stage);
    let job = jobs.start(replay(5000), "ops").unwrap();
    until(&jobs, &job.id, "it works", |job| job.state == JobState::Running).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    holder.ends(&stage, 6).await;
    let job = over(&jobs, &job.id).await;
    assert_eq!((&job.state, figures(&job), &job.note), (&JobState::Done, (6, 6, 0), &None), "{job:?}");
}

/// Has letters in hand as a pass of another process does.
struct Holder(lapin::Channel);

impl Holder {
    async fn of(stage: &Stage, count: u16) -> Self {
        let channel = stage.vhost.connect().await.channel().clone();
        channel.basic_qos(count, BasicQosOptions::default()).await.unwrap();
        let consumer = channel.basic_consume(DEAD.into(), "window".into(), BasicConsumeOptions::default(), FieldTable::default());
        let letters = consumer.await.unwrap().take(usize::from(count)).collect::<Vec<_>>().await;
        assert!(letters.iter().all(Result::is_ok));
        channel.basic_cancel("window".into(), BasicCancelOptions::default()).await.unwrap();
        Self(channel)
    }

    async fn ends(self, stage: &Stage, count: u32) {
        self.0.close(200, "done".into()).await.unwrap();
        stage.amqp.wait_ready(DEAD, count, SOON).await;
    }
}

#[tokio::test]
async fn a_filtered_replay_leaves_the_others_in_order_and_is_in_the_audit() {
    let stage = Stage::set().await;
    stage.bury_many(700).await;
    let (jobs, notes) = noted(&without_database(&stage), "worker");
    let job = jobs.start(JobSpec { filter: of("beta"), ..replay(5000) }, "ops").unwrap();
    let job = over(&jobs, &job.id).await;
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (350, 350, 0)), "{job:?}");
    assert_numbers(&replayed(&stage, 350).await, (2..=700).step_by(2));
    stage.amqp.wait_ready(DEAD, 350, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), (1..=700).step_by(2));
    let told = format!("ops: start job: {} replay dead integrator=\"beta\"", job.id);
    assert_eq!(notes.all(), [told.as_str(), "ended done"]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_a_page_shows_what_fits() {
    let stage = Stage::set().await;
    stage.bury_many(40).await;
    let jobs = jobs(&stage);
    let count = jobs.count(&JobSpec { filter: of("beta"), ..replay(50) }).await.unwrap();
    assert_eq!((count.seen, count.fitting, count.note), (40, 20, None));
    let mut after = 0;
    let mut shown = Vec::new();
    loop {
        let page = jobs.letters(Queue::Dead, &of("beta"), after, 8).await.unwrap();
        assert_eq!((page.seen, page.fitting, page.note), (40, 20, None));
        assert!(page.letters.len() <= 8);
        shown.extend(page.letters.into_iter().map(|letter| letter.event.unwrap()));
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(shown, (2..=40).step_by(2).map(|number| format!("evt-{number}")).collect::<Vec<_>>());
    assert_eq!(jobs.list().await, []);
    stage.amqp.wait_ready(DEAD, 40, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), 1..=40);
}

#[tokio::test]
async fn the_rate_is_kept_over_several_passes_and_who_looks_meanwhile_sees_what_is_left() {
    let stage = Stage::set().await;
    stage.bury_many(400).await;
    let jobs = jobs(&stage);
    let begin = Instant::now();
    let job = jobs.start(JobSpec { filter: of("beta"), ..replay(25) }, "ops").unwrap();
    until(&jobs, &job.id, "some are done", |job| job.progress.done >= 40).await;
    assert!(begin.elapsed() >= Duration::from_millis(1300), "40 at 25 a second, but for a tenth of a second's worth");
    let page = jobs.letters(Queue::Dead, &of("acme"), 0, 1000).await.unwrap();
    let left: Vec<u32> = page.letters.iter().map(|letter| letter.event.as_ref().unwrap()[4..].parse().unwrap()).collect();
    assert_numbers(&left, (1..=400).step_by(2));
    let half = jobs.get(&job.id).await.unwrap();
    // It goes on while one looks, faster or slower.
    let (seen, done) = (page.seen as u64, half.progress.done);
    assert!(seen < 400 - 30 && seen >= 400 - done, "{seen} left, {done} done");
    assert_eq!(half.progress.fitting, 200, "{half:?}");
    let job = over(&jobs, &job.id).await;
    let took = begin.elapsed();
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (200, 200, 0)), "{job:?}");
    assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(25), "200 at 25 a second took {took:?}");
    assert_numbers(&replayed(&stage, 200).await, (2..=400).step_by(2));
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), (1..=400).step_by(2));
}

#[tokio::test]
async fn a_job_that_is_cancelled_and_resumed_replays_each_letter_once_and_nothing_that_came_later() {
    let stage = Stage::set().await;
    stage.bury_many(300).await;
    let (jobs, notes) = noted(&without_database(&stage), "worker");
    let id = jobs.start(replay(100), "ops").unwrap().id;
    until(&jobs, &id, "some are done", |job| job.progress.done >= 30).await;
    jobs.cancel(&id, "chief").await.unwrap();
    let cancelled = over(&jobs, &id).await;
    let done = u32::try_from(cancelled.progress.done).unwrap();
    assert!(cancelled.state == JobState::Cancelled && (30..300).contains(&done), "{cancelled:?}");
    assert_eq!(jobs.cancel(&id, "chief").await, Err(Refused::State("cancelled")));
    stage.amqp.wait_ready(DEAD, 300 - done, SOON).await;
    assert_eq!(stage.amqp.ready(DUE).await, done);
    // What dies again is dated later; a clock that is behind does not hide that it was replayed.
    stage.bury(&Buried::new(301)).await;
    jobs.resume(&id, "chief").await.unwrap();
    assert_eq!(jobs.resume(&id, "chief").await.map_err(|refused| refused.to_string().contains("the job is ")), Err(true));
    let job = over(&jobs, &id).await;
    assert_eq!((&job.state, figures(&job), job.run), (&JobState::Done, (300, 300, 0), 2), "{job:?}");
    assert_eq!((job.asked_at, job.asked_by.as_str()), (cancelled.asked_at, "ops"));
    assert_numbers(&replayed(&stage, 300).await, 1..=300);
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), 301..=301);
    let actions: Vec<String> = notes.all().iter().map(|note| note.split(&format!(": {id}")).next().unwrap().to_owned()).collect();
    assert_eq!(actions, ["ops: start job", "chief: cancel job", "ended cancelled", "chief: resume job", "ended done"]);
}

#[tokio::test]
async fn a_discard_takes_what_is_older_and_a_limit_holds_over_runs() {
    let stage = Stage::set().await;
    let hour = Timestamp::from_millis(clock::now().millis() - 3_600_000);
    for number in 1..=30 {
        let at = if number % 3 == 0 { hour } else { clock::now() };
        stage.bury(&Buried { at, ..Buried::new(number) }).await;
    }
    let jobs = jobs(&stage);
    let discard = JobSpec { kind: JobKind::Discard, rate: Some(2), ..replay(2) };
    assert!(matches!(jobs.start(discard.clone(), "ops"), Err(Refused::Spec(_))), "everything has to be asked for by name");
    let until_then = Filter { until: Some(Timestamp::from_millis(hour.millis() + 1)), limit: Some(8), ..Filter::default() };
    let id = jobs.start(JobSpec { filter: until_then, ..discard }, "ops").unwrap().id;
    until(&jobs, &id, "some are gone", |job| job.progress.done >= 2).await;
    jobs.cancel(&id, "ops").await.unwrap();
    over(&jobs, &id).await;
    jobs.resume(&id, "ops").await.unwrap();
    let job = over(&jobs, &id).await;
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (8, 8, 0)), "{job:?}");
    stage.amqp.wait_ready(DEAD, 22, SOON).await;
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), (1..=30).filter(|number| number % 3 != 0 || *number > 24));
}

#[tokio::test]
async fn jobs_on_one_queue_come_one_after_the_other_and_not_too_many_wait() {
    let stage = Stage::set().await;
    stage.bury_many(60).await;
    let jobs = jobs(&stage);
    let first = jobs.start(JobSpec { filter: of("acme"), ..replay(20) }, "ops").unwrap().id;
    let second = jobs.start(JobSpec { filter: of("beta"), ..replay(5000) }, "ops").unwrap().id;
    let elsewhere = jobs.start(JobSpec { queue: Queue::Rejected, ..replay(20) }, "ops").unwrap().id;
    over(&jobs, &elsewhere).await;
    until(&jobs, &first, "it works", |job| job.progress.done > 0).await;
    assert_eq!(jobs.get(&second).await.unwrap().state, JobState::Queued);
    let mut waiting = Vec::new();
    while waiting.len() < 19 {
        waiting.push(jobs.start(replay(1), "ops").unwrap().id);
    }
    assert_eq!(jobs.start(replay(1), "ops"), Err(Refused::Full(20)));
    for id in &waiting {
        assert_eq!(jobs.cancel(id, "ops").await.unwrap().state, JobState::Cancelled);
    }
    let (first, second) = (over(&jobs, &first).await, over(&jobs, &second).await);
    assert!(second.started_at >= first.ended_at, "{first:?} {second:?}");
    assert_eq!((figures(&first), figures(&second)), ((30, 30, 0), (30, 30, 0)));
    assert_numbers(&replayed(&stage, 60).await, 1..=60);
}

#[tokio::test]
async fn what_cannot_be_replayed_stays_and_is_tried_once() {
    let stage = Stage::set().await;
    for number in 1..=80 {
        let source = if number <= 20 { "retired" } else { "compliance" };
        stage.bury(&Buried { source, ..Buried::new(number) }).await;
    }
    let jobs = jobs(&stage);
    // Two passes.
    let id = jobs.start(replay(10), "ops").unwrap().id;
    let job = over(&jobs, &id).await;
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (80, 60, 20)), "{job:?}");
    assert!(job.note.as_ref().is_some_and(|note| note.contains("its source `retired` is not configured")), "{job:?}");
    assert_numbers(&replayed(&stage, 60).await, 21..=80);
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), 1..=20);
}

#[tokio::test]
async fn a_job_on_a_queue_that_is_missing_fails_at_once_and_can_be_resumed() {
    let stage = Stage::set().await;
    stage.amqp.delete_queue("callbacks.rejected").await;
    let jobs = jobs(&stage);
    let spec = JobSpec { queue: Queue::Rejected, ..replay(50) };
    assert!(matches!(jobs.count(&spec).await, Err(Refused::Broker(why)) if why.contains("NOT_FOUND")));
    let begin = Instant::now();
    let id = jobs.start(spec, "ops").unwrap().id;
    let job = over(&jobs, &id).await;
    assert!(matches!(&job.state, JobState::Failed { why } if why.contains("NOT_FOUND")), "{job:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
    stage.declare().await;
    jobs.resume(&id, "ops").await.unwrap();
    assert_eq!(over(&jobs, &id).await.state, JobState::Done);
}

#[tokio::test]
async fn a_worker_that_stops_interrupts_its_jobs_and_loses_nothing() {
    let stage = Stage::set().await;
    stage.bury_many(600).await;
    let (jobs, notes) = noted(&without_database(&stage), "worker");
    let id = jobs.start(replay(50), "ops").unwrap().id;
    let waiting = jobs.start(replay(50), "ops").unwrap().id;
    until(&jobs, &id, "some are done", |job| job.progress.done >= 10).await;
    let begin = Instant::now();
    jobs.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    assert_eq!(jobs.start(replay(50), "ops"), Err(Refused::Stopping));
    let job = jobs.get(&id).await.unwrap();
    assert_eq!((&job.state, jobs.get(&waiting).await.unwrap().state), (&JobState::Interrupted, JobState::Interrupted));
    assert_eq!(notes.count("ended interrupted"), 2);
    let done = usize::try_from(job.progress.done).unwrap();
    stage.amqp.wait_ready(DEAD, u32::try_from(600 - done).unwrap(), SOON).await;
    let mut all = replayed(&stage, done).await;
    let left = numbers(&stage.amqp.drain(DEAD).await);
    assert!(left.is_sorted() && all.len() == done);
    all.extend(left);
    all.sort_unstable();
    assert_numbers(&all, 1..=600);
}

#[tokio::test]
async fn a_database_that_is_away_fails_no_job_and_is_told_once() {
    let stage = Stage::set().await;
    stage.bury_many(100).await;
    let database = Database::postgres().await;
    let proxy = TcpProxy::to(database.address());
    let mut config = stage.config.clone();
    config.delivery_log.database = Some(Configured::Postgres(database.url_at(&proxy.address().to_string()).into()));
    let (jobs, notes) = noted(&config, "worker");
    proxy.refuse(true);
    let id = jobs.start(replay(10), "ops").unwrap().id;
    until(&jobs, &id, "some are done", |job| job.progress.done >= 50).await;
    assert_eq!((notes.count("not recorded"), notes.count("recorded")), (1, 0), "{:?}", notes.all());
    jobs.cancel(&id, "ops").await.unwrap();
    assert_eq!(over(&jobs, &id).await.state, JobState::Cancelled);
    jobs.resume(&id, "ops").await.unwrap();
    proxy.refuse(false);
    eventually("it is written again", SOON, async || notes.count("recorded") == 1).await;
    let job = over(&jobs, &id).await;
    assert_eq!((&job.state, figures(&job)), (&JobState::Done, (100, 100, 0)), "{job:?}");
    eventually("its end is written", SOON, async || {
        database.numbers("SELECT COUNT(*) FROM job WHERE state = 'done' AND run = 2").await == [1]
    })
    .await;
    assert_eq!(notes.count("not recorded"), 1);
    assert_numbers(&replayed(&stage, 100).await, 1..=100);
}

#[tokio::test]
async fn a_job_survives_the_loss_of_its_connections() {
    let stage = Stage::set().await;
    stage.bury_many(300).await;
    let (host, vhost) = stage.vhost.url().rsplit_once('/').map(|(host, vhost)| (host.to_owned(), vhost.to_owned())).unwrap();
    let (user, address) = host.rsplit_once('@').unwrap();
    let proxy = TcpProxy::to(address);
    let mut config = without_database(&stage);
    config.broker.url = BrokerUrl::new(format!("{user}@{}/{vhost}", proxy.address()));
    let jobs = noted(&config, "worker").0;
    let id = jobs.start(replay(100), "ops").unwrap().id;
    for least in [50, 150] {
        until(&jobs, &id, "some are done", |job| job.progress.done >= least).await;
        proxy.cut();
    }
    let job = over(&jobs, &id).await;
    assert_eq!((&job.state, job.progress.failed), (&JobState::Done, 0), "{job:?}");
    let mut all = replayed(&stage, 300).await;
    assert!(all.len() < 300 + 4 * config.broker.publish_channels, "{}: what was in hand may be there twice", all.len());
    all.dedup();
    assert_numbers(&all, 1..=300);
    assert_eq!(stage.amqp.ready(DEAD).await, 0);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_noted_and_hides_nothing_from_a_job() {
    let stage = Stage::set().await;
    for number in 1..=6 {
        stage.bury(&Buried::new(number)).await;
        if number == 3 {
            publish_poison(&stage.vhost.url(), DEAD).await;
        }
    }
    let jobs = jobs(&stage);
    let count = jobs.count(&replay(50)).await.unwrap();
    assert!(count.note.is_some_and(|note| note.contains("cannot be read")));
    let id = jobs.start(replay(50), "ops").unwrap().id;
    let job = over(&jobs, &id).await;
    assert_eq!((&job.state, job.progress.done), (&JobState::Done, 6), "{job:?}");
    assert!(job.note.as_ref().is_some_and(|note| note.contains("cannot be read")), "{job:?}");
    assert_numbers(&replayed(&stage, 6).await, 1..=6);
    stage.amqp.wait_ready(DEAD, 1, SOON).await;
}

async fn the_job_of_a_worker_that_is_gone_is_interrupted_and_any_other_goes_on_with_it(database: Database) {
    let stage = Stage::set().await;
    stage.bury_many(400).await;
    let config = with_database(&stage, &database);
    // A runtime that ends drops everything of it at once, as a kill does.
    let (started, id) = mpsc::channel();
    let (kill, killed) = mpsc::channel::<()>();
    let first = config.clone();
    let worker = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let jobs = noted(&first, "first").0;
        let job = runtime.block_on(async { jobs.start(replay(50), "ops").unwrap() });
        started.send(job.id).unwrap();
        killed.recv().unwrap();
        runtime.shutdown_background();
    });
    let id = id.recv().unwrap();
    let (second, notes) = noted(&config, "second");
    let job = until(&second, &id, "it is at work and written", |job| job.progress.done >= 60).await;
    assert_eq!((&job.state, job.worker.as_str()), (&JobState::Running, "first"));
    assert_eq!(second.resume(&id, "ops").await, Err(Refused::State("running")));
    kill.send(()).unwrap();
    worker.join().unwrap();
    database.run("UPDATE job SET updated_at = updated_at - 31000").await;
    let job = second.get(&id).await.unwrap();
    assert_eq!((&job.state, second.list().await.len()), (&JobState::Interrupted, 1));
    let resumed = second.resume(&id, "chief").await.unwrap();
    assert_eq!((resumed.worker.as_str(), resumed.run, resumed.asked_at), ("second", 2, job.asked_at));
    let job = over(&second, &id).await;
    assert_eq!(job.state, JobState::Done, "{job:?} {:?}", notes.all());
    let mut all = replayed(&stage, 400).await;
    assert!(all.len() < 400 + 2 * config.broker.publish_channels, "{}: what was in hand may be there twice", all.len());
    all.dedup();
    assert_numbers(&all, 1..=400);
    assert_eq!(stage.amqp.ready(DEAD).await, 0);
    let row = database.rows("SELECT run, state FROM job").await;
    assert_eq!(row.len(), 1);
}

async fn another_worker_sees_a_job_and_cancels_it(database: Database) {
    let stage = Stage::set().await;
    stage.bury_many(300).await;
    let config = with_database(&stage, &database);
    let ((first, _), (second, notes)) = (noted(&config, "first"), noted(&config, "second"));
    let id = first.start(replay(20), "ops").unwrap().id;
    until(&second, &id, "the other sees it at work", |job| job.progress.done >= 5).await;
    // Its own job on the same queue waits for that one.
    let own = second.start(JobSpec { filter: of("beta"), ..replay(5000) }, "ops").unwrap().id;
    second.cancel(&id, "chief").await.unwrap();
    assert_eq!(over(&first, &id).await.state, JobState::Cancelled);
    assert!(notes.all().iter().any(|note| note.starts_with(&format!("chief: cancel job: {id}"))));
    let (job, own) = (over(&second, &id).await, over(&second, &own).await);
    assert_eq!(job.state, JobState::Cancelled);
    assert!(own.state == JobState::Done && own.started_at >= job.ended_at, "{job:?} {own:?}");
    // Who had it learns that another one has it.
    second.resume(&id, "chief").await.unwrap();
    let job = over(&second, &id).await;
    assert_eq!((&job.state, job.progress.done + own.progress.done), (&JobState::Done, 300), "{job:?}");
    assert_eq!((first.get(&id).await.unwrap().run, first.resume(&id, "ops").await), (2, Err(Refused::State("done"))));
    assert_numbers(&replayed(&stage, 300).await, 1..=300);
}

async fn a_job_that_another_worker_has_claimed_ends_here(database: Database) {
    let stage = Stage::set().await;
    stage.bury_many(300).await;
    let (jobs, notes) = noted(&with_database(&stage, &database), "first");
    let id = jobs.start(replay(20), "ops").unwrap().id;
    until(&jobs, &id, "some are done", |job| job.progress.done >= 5).await;
    eventually("it is written", SOON, async || database.numbers("SELECT COUNT(*) FROM job").await == [1]).await;
    database.run("UPDATE job SET run = run + 1, instance = 'another'").await;
    eventually("it has ended", SOON, async || notes.count("ended interrupted") == 1).await;
    let job = jobs.get(&id).await.unwrap();
    assert_eq!((&job.state, job.run), (&JobState::Running, 2), "as the other one has it");
    assert_eq!(jobs.resume(&id, "ops").await, Err(Refused::State("running")));
    let done = stage.amqp.ready(DUE).await;
    stage.amqp.wait_ready(DEAD, 300 - done, SOON).await;
    assert!(done < 300);
}

async fn what_is_over_is_remembered_by_the_database(database: Database) {
    let stage = Stage::set().await;
    let config = with_database(&stage, &database);
    let jobs = noted(&config, "first").0;
    let quoted = Filter { integrator: Some("it's \"q\"\u{0}".to_owned()), ..Filter::default() };
    let spec = JobSpec { filter: quoted, ..replay(50) };
    let id = jobs.start(spec.clone(), "ops").unwrap().id;
    let told = over(&jobs, &id).await;
    jobs.stop().await;
    drop(jobs);
    let later = noted(&config, "first").0;
    assert_eq!(later.list().await, [told]);
    assert_eq!(later.get(&id).await.unwrap().spec, spec);
    assert_eq!(later.resume(&id, "ops").await, Err(Refused::State("done")));
    assert_eq!(later.get(&JobId::parse("000000000000000000000000").unwrap()).await, Err(Refused::Unknown));
    // Of those that are over only the latest 200 stay.
    let copy = "INSERT INTO job (id, queue, state, run, instance, updated_at, ended_at, told) \
                SELECT 'old-' || n, queue, 'done', 1, '', 0, n, told FROM job, \
                (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 250) SELECT n FROM c) AS many";
    database.run(copy).await;
    let id = later.start(spec, "ops").unwrap().id;
    over(&later, &id).await;
    eventually("the oldest are gone", SOON, async || {
        let count = database.numbers("SELECT COUNT(*) FROM job").await[0];
        if count == 200 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(database.numbers("SELECT COUNT(*) FROM job WHERE id LIKE 'old-%' AND ended_at <= 52").await, [0]);
}

#[tokio::test]
async fn the_command_replays_at_a_rate_too() {
    let stage = Stage::set().await;
    stage.bury_many(120).await;
    let begin = Instant::now();
    assert_eq!(stage.run(&["replay", "--rate", "20/s", "--integrator", "acme"]).await, "replayed 60, failed 0\n");
    assert!(begin.elapsed() > Duration::from_millis(2500), "60 at 20 a second took {:?}", begin.elapsed());
    assert_numbers(&replayed(&stage, 60).await, (1..=120).step_by(2));
    assert_numbers(&numbers(&stage.amqp.drain(DEAD).await), (2..=120).step_by(2));
}

/// Figures for the documentation: `cargo test --test jobs -- --ignored --nocapture how_fast`.
#[tokio::test]
#[ignore = "measures"]
async fn how_fast_it_is() {
    let stage = Stage::set().await;
    let count: u32 = std::env::var("COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    let outlets = futures_util::future::join_all((0..32).map(|_| stage.vhost.connect())).await;
    let parts = outlets.iter().zip(0_u32..).map(|(outlet, part)| async move {
        for number in (part + 1..=count).step_by(32) {
            let letter = Buried::new(number);
            outlet.publish("callbacks.publish", DEAD, letter.properties(), letter.body().as_bytes()).await;
        }
    });
    futures_util::future::join_all(parts).await;
    let jobs = jobs(&stage);
    for rate in [50, 500, 5000] {
        let limit = Some((rate as usize * 20).min(20_000));
        let begin = Instant::now();
        let spec = JobSpec { filter: Filter { limit, ..Filter::default() }, ..replay(rate) };
        let id = jobs.start(spec, "ops").unwrap().id;
        let job =
            eventually("the job is over", Duration::from_secs(600), async || jobs.get(&id).await.ok().filter(|job| !job.state.is_open()))
                .await;
        let took = begin.elapsed().as_secs_f64();
        println!("{rate} a second of {count}: {} in {took:.1} s, {:.0}/s", job.progress.done, job.progress.done as f64 / took);
    }
}
