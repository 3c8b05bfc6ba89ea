//! Letters that wait for an operator, and the jobs that replay or discard them.

use axum::Form;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::Console;
use super::page::{Frame, Place, card, found_by, fragment, moment, number};
use crate::admin::access::Actor;
use crate::admin::api::letters::{Wanted, filter, job_by, looked, queue_by};
use crate::admin::api::{Params, Refusal, path_of};
use crate::clock;
use crate::domain::time::Timestamp;
use crate::letters::{Count, Filter, Job, JobKind, JobSpec, JobState, Letter, Page, Queue};

/// Letters of one page.
const LETTERS: usize = 50;

/// What the form of a job sends.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    kind: JobKind,
    #[serde(default)]
    rate: String,
    #[serde(default)]
    integrator: String,
    #[serde(default)]
    endpoint: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    /// How many it was said to be. Without it, nothing is done yet: it is counted and asked.
    fitting: Option<usize>,
    /// When that was asked.
    asked_at: Option<i64>,
}

impl Asked {
    fn wanted(&self) -> Wanted {
        let given = |text: &String| Some(text.clone());
        let wanted = Wanted {
            integrator: given(&self.integrator),
            endpoint: given(&self.endpoint),
            reason: given(&self.reason),
            event: given(&self.event),
            since: given(&self.since),
            until: given(&self.until),
            after: None,
            limit: None,
        };
        wanted.of_form()
    }

    fn spec(&self, queue: Queue) -> Result<JobSpec, Refusal> {
        let rate = match self.rate.trim() {
            "" => None,
            text => Some(text.parse().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the rate is a number of letters a second"))?),
        };
        // Whoever is asked sees how many it is before anything is done, so that no filter is a filter too.
        Ok(JobSpec { kind: self.kind, queue, filter: filter(&self.wanted())?, rate, all: true })
    }
}

/// The letters of a queue.
pub(super) async fn list(
    State(console): State<Console>,
    Extension(frame): Extension<Frame>,
    Path(queue): Path<String>,
    Params(wanted): Params<Wanted>,
) -> Response {
    let queue = match queue_by(&queue) {
        Ok(queue) => queue,
        Err(refusal) => return frame.refused(Place::Letters, &refusal),
    };
    let wanted = wanted.of_form();
    let page = looked(&console.api, queue, &Wanted { limit: Some(LETTERS), ..wanted.clone() }).await;
    let jobs = console.api.jobs.list().await;
    let body = html! {
        div.row role="navigation" aria-label="Queues" { @for one in Queue::ALL {
            a.button href=(frame.link(&format!("/letters/{}", one.as_str()))) aria-current=[(one == queue).then_some("page")] { (title(one)) }
        } }
        p.about { (about(queue)) }
        (fields(queue, &wanted))
        @match &page {
            // The jobs may be what one wants to see just then.
            Err(refusal) => { p.note.bad role="alert" { "The letters cannot be shown: " (refusal.message) } }
            Ok(page) => { (shown(&frame, queue, &wanted, page, &jobs)) }
        }
        (listed(&frame, &jobs))
    };
    frame.page(Place::Letters, title(queue), &body)
}

fn shown(frame: &Frame, queue: Queue, wanted: &Wanted, page: &Page, jobs: &[Job]) -> Markup {
    let is_held = jobs.iter().any(|job| job.spec.queue == queue && job.state == JobState::Running);
    html! {
        @if let Some(note) = &page.note { p.note.bad { (note) } }
        @if is_held { p.note { "A job works on this queue: letters that it has in hand are not seen here at this moment." } }
        @else if page.seen == 0 { p.about { "The queue is empty, or somebody else has its letters in hand at this moment (another worker's page, " code { "callbackd dead" } ")." } }
        p { b { (number(page.fitting as u64)) } " of " (number(page.seen as u64)) " fit." }
        (table(frame, page))
        @if let Some(next) = page.next { p { a href=(frame.link(&format!("/letters/{}?{}", queue.as_str(), query(wanted, next)))) { "More" } } }
        @if page.fitting > 0 { (ask(frame, queue, wanted)) }
    }
}

/// All jobs that are remembered.
pub(super) async fn jobs(State(console): State<Console>, Extension(frame): Extension<Frame>) -> Response {
    let jobs = console.api.jobs.list().await;
    let body = html! { @if jobs.is_empty() { p.about { "No letters have been replayed or discarded by a job." } } (listed(&frame, &jobs)) };
    frame.page(Place::Letters, "Jobs", &body)
}

const fn title(queue: Queue) -> &'static str {
    match queue {
        Queue::Dead => "Dead letters",
        Queue::Rejected => "Rejected events",
        Queue::Unroutable => "Unroutable messages",
    }
}

const fn about(queue: Queue) -> &'static str {
    match queue {
        Queue::Dead => "Deliveries that were given up. A replay starts again with the first attempt; ids stay.",
        Queue::Rejected => "Events that are no deliveries. A replay is judged anew, by the configuration of now.",
        Queue::Unroutable => "What the broker moved while the queue for it was missing. A replay goes on where it was.",
    }
}

fn fields(queue: Queue, wanted: &Wanted) -> Markup {
    let field = |label: &str, name: &str, value: &Option<String>, placeholder: &str| {
        html! {
            label { (label) br; input name=(name) value=[value.as_deref()] placeholder=(placeholder); }
        }
    };
    html! {
        form.row method="get" {
            (field("Integrator", "integrator", &wanted.integrator, "any"))
            (field("Endpoint", "endpoint", &wanted.endpoint, "any"))
            (field("Event", "event", &wanted.event, "any"))
            label { "Reason" br; select name="reason" {
                option value="" { "any" }
                @for reason in queue.reasons() { option value=(reason) selected[wanted.reason.as_deref() == Some(reason)] { (reason) } }
            } }
            (field("Since", "since", &wanted.since, "2h, or a time"))
            (field("Before", "until", &wanted.until, "1h, or a time"))
            button { "Show" }
        }
    }
}

fn pairs(wanted: &Wanted) -> [(&'static str, Option<&str>); 6] {
    [
        ("integrator", wanted.integrator.as_deref()),
        ("endpoint", wanted.endpoint.as_deref()),
        ("event", wanted.event.as_deref()),
        ("reason", wanted.reason.as_deref()),
        ("since", wanted.since.as_deref()),
        ("until", wanted.until.as_deref()),
    ]
}

fn query(wanted: &Wanted, next: u32) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs(wanted) {
        query.append_pair(name, value.unwrap_or_default());
    }
    query.append_pair("after", &next.to_string()).finish()
}

fn table(frame: &Frame, page: &Page) -> Markup {
    html! {
        div.scroll {
            @if page.letters.is_empty() { p.none { "No letter fits." } } @else { table.stack {
                thead { tr { th { "since (UTC)" } th { "who" } th { "event" } th { "reason" } th.number { "attempts" } th { "last answer" } } }
                tbody { @for letter in &page.letters { (row(frame, letter)) } }
            } }
        }
    }
}

fn row(frame: &Frame, letter: &Letter) -> Markup {
    let who = [letter.integrator.as_deref(), letter.endpoint.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" / ");
    html! { tr {
        td.time { @if let Some(at) = letter.dead_at { (moment(&at.to_string())) } }
        td { @match (&letter.integrator, &letter.endpoint) {
            (Some(integrator), Some(endpoint)) => { a href=(frame.link(&format!("/endpoints/{}", path_of(integrator, endpoint)))) { (who) } }
            _ => { (who) }
        } }
        td.mono { @if let Some(event) = &letter.event { a href=(frame.link(&format!("/events?{}", found_by(event, letter.integrator.as_deref())))) { (event) } } }
        td title=[letter.detail.as_deref()] { span.tag { (letter.reason.as_deref().unwrap_or("?")) } }
        td.number { (letter.attempts) }
        td { (letter.last_error.as_deref().or(letter.detail.as_deref()).unwrap_or_default()) }
    } }
}

/// What can be done with all letters that fit.
fn ask(frame: &Frame, queue: Queue, wanted: &Wanted) -> Markup {
    html! {
        form.row method="post" action=(frame.link(&format!("/letters/{}/ask", queue.as_str()))) {
            (hidden(wanted))
            label { "Letters a second" br; input name="rate" inputmode="numeric" placeholder="50"; }
            button.main name="kind" value="replay" { "Replay all that fit…" }
            button.danger name="kind" value="discard" { "Discard all that fit…" }
        }
    }
}

fn hidden(wanted: &Wanted) -> Markup {
    html! { @for (name, value) in pairs(wanted) { input type="hidden" name=(name) value=(value.unwrap_or_default()); } }
}

/// Counts and asks; asked again with the number that was said, starts the job.
pub(super) async fn asked(
    State(console): State<Console>,
    (Extension(frame), Extension(actor)): (Extension<Frame>, Extension<Actor>),
    Path(queue): Path<String>,
    Form(asked): Form<Asked>,
) -> Response {
    let outcome = async {
        let queue = queue_by(&queue)?;
        let spec = asked.spec(queue)?;
        let Some(fitting) = asked.fitting else {
            let asked_at = clock::now();
            let count = console.api.jobs.count(&spec).await?;
            return Ok(frame.page(Place::Letters, title(queue), &question(&frame, (queue, &asked), &spec, (&count, asked_at))));
        };
        // What they were asked about: so many at most, of those that were there then.
        let spec = JobSpec { filter: Filter { limit: Some(fitting), ..spec.filter }, ..spec };
        let asked_at = asked.asked_at.map_or_else(clock::now, Timestamp::from_millis);
        let job = console.api.jobs.start_as_of(spec, actor.as_str(), asked_at)?;
        Ok::<_, Refusal>(Redirect::to(&frame.link(&format!("/jobs/{}", job.id))).into_response())
    };
    outcome.await.unwrap_or_else(|refusal| frame.refused(Place::Letters, &refusal))
}

fn question(frame: &Frame, (queue, asked): (Queue, &Asked), spec: &JobSpec, (count, asked_at): (&Count, Timestamp)) -> Markup {
    // Times that are relative to now would be others when the answer comes.
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let wanted = Wanted { since: time(spec.filter.since), until: time(spec.filter.until), ..asked.wanted() };
    let (verb, kind) = match asked.kind {
        JobKind::Replay => ("Replay", "replay"),
        JobKind::Discard => ("Discard for good", "discard"),
    };
    html! {
        @if let Some(note) = &count.note { p.note.bad { (note) } }
        p.note { (verb) " " b { (number(count.fitting)) } " of " (number(count.seen)) " messages?"
            @if wanted.integrator.is_none() { " They are of any integrator." } }
        dl { @for (name, value) in pairs(&wanted) { @if let Some(value) = value { dt { (name) } dd.mono { (value) } } } }
        form.row method="post" action=(frame.link(&format!("/letters/{}/ask", queue.as_str()))) {
            (hidden(&wanted))
            input type="hidden" name="rate" value=(asked.rate);
            input type="hidden" name="fitting" value=(count.fitting);
            input type="hidden" name="asked_at" value=(asked_at.millis());
            @if count.fitting > 0 { button.main name="kind" value=(kind) { (verb) " " (number(count.fitting)) } }
            a.button href=(frame.link(&format!("/letters/{}", queue.as_str()))) { "No" }
        }
    }
}

/// A job.
pub(super) async fn job(State(console): State<Console>, Extension(frame): Extension<Frame>, Path(id): Path<String>) -> Response {
    let job = async { Ok::<_, Refusal>(console.api.jobs.get(&job_by(&id)?).await?) };
    match job.await {
        Ok(job) => frame.page(Place::Letters, &format!("Job: {}", told(&job)), &watched(&frame, &job)),
        Err(refusal) => frame.refused(Place::Letters, &refusal),
    }
}

/// How far a job is, for its page.
pub(super) async fn progress(State(console): State<Console>, Extension(frame): Extension<Frame>, Path(id): Path<String>) -> Response {
    let job = async { Ok::<_, Refusal>(console.api.jobs.get(&job_by(&id)?).await?) };
    match job.await {
        Ok(job) => fragment(&watched(&frame, &job)),
        Err(refusal) => fragment(&html! { p.note.bad { (refusal.message) } }),
    }
}

/// Ends a job.
pub(super) async fn cancel(
    State(console): State<Console>,
    (Extension(frame), Extension(actor)): (Extension<Frame>, Extension<Actor>),
    Path(id): Path<String>,
) -> Response {
    let job = async { Ok::<_, Refusal>(console.api.jobs.cancel(&job_by(&id)?, actor.as_str()).await?) };
    after(&frame, job.await)
}

/// Goes on with a job.
pub(super) async fn resume(
    State(console): State<Console>,
    (Extension(frame), Extension(actor)): (Extension<Frame>, Extension<Actor>),
    Path(id): Path<String>,
) -> Response {
    let job = async { Ok::<_, Refusal>(console.api.jobs.resume(&job_by(&id)?, actor.as_str()).await?) };
    after(&frame, job.await)
}

fn after(frame: &Frame, job: Result<Job, Refusal>) -> Response {
    match job {
        Ok(job) => Redirect::to(&frame.link(&format!("/jobs/{}", job.id))).into_response(),
        Err(refusal) => frame.refused(Place::Letters, &refusal),
    }
}

/// What is shown of a job, which asks for itself anew as long as the job is open.
fn watched(frame: &Frame, job: &Job) -> Markup {
    let progress = job.progress;
    let again = job.state.is_open().then(|| frame.link(&format!("/jobs/{}/progress", job.id)));
    html! {
        div id="job" hx-get=[again.as_deref()] hx-trigger=[again.as_ref().map(|_| "every 1s")] hx-swap="outerHTML" {
            p.about { (state(job)) " asked for by " (job.asked_by) " at " (moment(&job.asked_at.to_string())) ", run " (job.run) " on " span.mono { (job.worker) } }
            @if let JobState::Failed { why } = &job.state { p.note.bad { (why) } }
            @if let Some(note) = &job.note { p.note { (note) } }
            progress max=(progress.fitting.max(1)) value=(progress.done + progress.failed) aria-label="Progress" {}
            div.cards {
                (card("Done", &number(progress.done), ""))
                (card("Stay where they are", &number(progress.failed), "could not be replayed"))
                (card("Fit so far", &number(progress.fitting), "as far as the queue was looked at"))
            }
            div.row {
                @if job.state.is_open() { form method="post" action=(frame.link(&format!("/jobs/{}/cancel", job.id))) { button.danger { "Cancel" } } }
                @if job.state.is_resumable() { form method="post" action=(frame.link(&format!("/jobs/{}/resume", job.id))) { button.main { "Resume" } } }
                a.button href=(frame.link(&format!("/letters/{}", job.spec.queue.as_str()))) { "To the letters" }
            }
        }
    }
}

fn state(job: &Job) -> Markup {
    let kind = match job.state {
        JobState::Done if job.progress.failed > 0 || job.note.is_some() => "warn",
        JobState::Done => "good",
        JobState::Failed { .. } => "bad",
        JobState::Cancelled | JobState::Interrupted => "warn",
        JobState::Queued | JobState::Running => "",
    };
    html! { span class={ "tag " (kind) } { (job.state.as_str()) } }
}

fn told(job: &Job) -> String {
    let of = [
        ("of", &job.spec.filter.integrator),
        ("to", &job.spec.filter.endpoint),
        ("for", &job.spec.filter.reason),
        ("event", &job.spec.filter.event),
    ];
    let of: String = of.iter().filter_map(|(word, value)| value.as_ref().map(|value| format!(" {word} {value}"))).collect();
    format!("{} {}{of}", job.spec.kind.as_str(), job.spec.queue.as_str())
}

fn listed(frame: &Frame, jobs: &[Job]) -> Markup {
    html! {
        @if !jobs.is_empty() {
            h2 { a href=(frame.link("/jobs")) { "Jobs" } }
            div.scroll { table {
                thead { tr { th { "asked (UTC)" } th { "what" } th { "by" } th { "state" } th.number { "done" } th.number { "stay" } } }
                tbody { @for job in jobs.iter().take(20) { tr {
                    td.time { (moment(&job.asked_at.to_string())) }
                    td { a href=(frame.link(&format!("/jobs/{}", job.id))) { (told(job)) } }
                    td { (job.asked_by) }
                    td { (state(job)) }
                    td.number { (number(job.progress.done)) }
                    td.number { (number(job.progress.failed)) }
                } } }
            } }
        }
    }
}
