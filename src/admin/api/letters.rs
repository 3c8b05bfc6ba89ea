//! Letters, and the jobs that replay or discard them.

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{Params, Refusal, Sent, Told, json};
use super::log::time;
use super::{Actor, Api};
use crate::clock;
use crate::letters::{Count, Filter, Job, JobId, JobSpec, MOST_LISTED, Page, Queue, Refused};

/// Which letters.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::admin) struct Wanted {
    /// Of this integrator.
    pub integrator: Option<String>,
    /// To this endpoint.
    pub endpoint: Option<String>,
    /// Here for this reason.
    pub reason: Option<String>,
    /// With this event id.
    pub event: Option<String>,
    /// Here since this time or later: RFC 3339, or that long ago, such as `2h`.
    pub since: Option<String>,
    /// Here since before this time: RFC 3339, or that long ago.
    pub until: Option<String>,
    /// Behind this position: `next` of the page before.
    #[param(value_type = Option<i64>, minimum = 0, maximum = 4_294_967_295_i64)]
    pub after: Option<u32>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
}

/// How a job is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only count what fits, and change nothing.
    #[param(default = false)]
    dry_run: Option<bool>,
}

/// What waits in a queue for an operator, without payloads, in the order of the queue. A look takes all messages of the queue in hand for a
/// moment and puts them back; who works with the queue at the same time waits for its turn.
#[utoipa::path(get, path = "/api/v1/letters/{queue}", tag = "letters", params(("queue" = Queue, Path, description = "Which queue"), Wanted), responses(
    (status = OK, body = Page),
    (status = BAD_REQUEST, description = "A parameter is no good.", body = Told),
    (status = NOT_FOUND, description = "There is no such queue.", body = Told),
    (status = TOO_MANY_REQUESTS, description = "Ten looks, and one more a second.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The queue cannot be looked at now.", body = Told),
))]
pub(super) async fn letters(State(api): State<Api>, Path(queue): Path<String>, Params(wanted): Params<Wanted>) -> Response {
    let page = async { looked(&api, queue_by(&queue)?, &wanted).await };
    match page.await {
        Ok(page) => json(StatusCode::OK, &page),
        Err(refusal) => refusal.into_response(),
    }
}

/// Starts a job: all letters that fit are replayed or discarded, those alone that are there now. With `dry_run=true` it is only counted what fits.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "letters", params(How), request_body = JobSpec, responses(
    (status = OK, description = "With `dry_run`: what fits.", body = Count),
    (status = ACCEPTED, description = "The job.", body = Job),
    (status = BAD_REQUEST, description = "The job makes no sense.", body = Told),
    (status = TOO_MANY_REQUESTS, description = "Enough jobs wait.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The worker stops, or the queue cannot be looked at now.", body = Told),
))]
pub(super) async fn start(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Params(how): Params<How>,
    Sent(spec): Sent<JobSpec>,
) -> Response {
    if how.dry_run == Some(true) {
        // Nobody has to say `all` to have everything counted.
        let spec = JobSpec { all: true, ..spec };
        if api.limits.looks.check().is_err() {
            return Refusal::new(StatusCode::TOO_MANY_REQUESTS, "one look a second, as each takes the whole queue in hand").into_response();
        }
        let count = async {
            spec.check()?;
            api.jobs.count(&spec).await
        };
        return match count.await {
            Ok(count) => json(StatusCode::OK, &count),
            Err(refused) => Refusal::from(refused).into_response(),
        };
    }
    match api.jobs.start(spec, actor.as_str()) {
        Ok(job) => json(StatusCode::ACCEPTED, &job),
        Err(refused) => Refusal::from(refused).into_response(),
    }
}

/// All jobs that are remembered, the newest first, of all workers that share the delivery log's database.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "letters", responses((status = OK, body = Vec<Job>)))]
pub(super) async fn jobs(State(api): State<Api>) -> Response {
    json(StatusCode::OK, &api.jobs.list().await)
}

/// One job and how far it is.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "letters", params(("id" = JobId, Path, description = "The job")), responses(
    (status = OK, body = Job),
    (status = NOT_FOUND, description = "There is no such job.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The database that may know it does not answer.", body = Told),
))]
pub(super) async fn job(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let job = async { Ok(api.jobs.get(&job_by(&id)?).await?) };
    told(job.await)
}

/// Ends a job after the letter in hand. It can be resumed.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "letters", params(("id" = JobId, Path, description = "The job")), responses(
    (status = OK, body = Job),
    (status = NOT_FOUND, description = "There is no such job.", body = Told),
    (status = CONFLICT, description = "It is over.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The database that may know it does not answer.", body = Told),
))]
pub(super) async fn cancel(State(api): State<Api>, Extension(actor): Extension<Actor>, Path(id): Path<String>) -> Response {
    let job = async { Ok(api.jobs.cancel(&job_by(&id)?, actor.as_str()).await?) };
    told(job.await)
}

/// Goes on with a job that was cancelled, failed or was interrupted, here, with what was there when it was first asked for.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/resume", tag = "letters", params(("id" = JobId, Path, description = "The job")), responses(
    (status = OK, body = Job),
    (status = NOT_FOUND, description = "There is no such job.", body = Told),
    (status = CONFLICT, description = "It is at work, or done.", body = Told),
    (status = TOO_MANY_REQUESTS, description = "Enough jobs wait.", body = Told),
    (status = SERVICE_UNAVAILABLE, description = "The worker stops, or the database that may know it does not answer.", body = Told),
))]
pub(super) async fn resume(State(api): State<Api>, Extension(actor): Extension<Actor>, Path(id): Path<String>) -> Response {
    let job = async { Ok(api.jobs.resume(&job_by(&id)?, actor.as_str()).await?) };
    told(job.await)
}

impl Wanted {
    /// What a form sends: fields that are left empty are not meant.
    pub(in crate::admin) fn of_form(self) -> Self {
        let given = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        Self {
            integrator: given(self.integrator),
            endpoint: given(self.endpoint),
            reason: given(self.reason),
            event: given(self.event),
            since: given(self.since),
            until: given(self.until),
            ..self
        }
    }
}

/// Letters of a queue.
pub(in crate::admin) async fn looked(api: &Api, queue: Queue, wanted: &Wanted) -> Result<Page, Refusal> {
    let limit = wanted.limit.unwrap_or(100);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "`limit` is 1 to 1000"));
    }
    if api.limits.looks.check().is_err() {
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "one look a second, as each takes the whole queue in hand"));
    }
    Ok(api.jobs.letters(queue, &filter(wanted)?, wanted.after.unwrap_or(0), limit).await?)
}

/// The filter that is asked for.
pub(in crate::admin) fn filter(wanted: &Wanted) -> Result<Filter, Refusal> {
    let now = clock::now();
    Ok(Filter {
        integrator: wanted.integrator.clone(),
        endpoint: wanted.endpoint.clone(),
        reason: wanted.reason.clone(),
        event: wanted.event.clone(),
        since: time("since", wanted.since.as_deref(), now)?,
        until: time("until", wanted.until.as_deref(), now)?,
        limit: None,
        asked_at: None,
    })
}

/// The queue that a path names.
pub(in crate::admin) fn queue_by(name: &str) -> Result<Queue, Refusal> {
    let queue = Queue::ALL.into_iter().find(|queue| queue.as_str() == name);
    queue.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there are the queues dead, rejected and unroutable"))
}

/// The job that a path names.
pub(in crate::admin) fn job_by(id: &str) -> Result<JobId, Refusal> {
    JobId::parse(id).ok_or_else(|| Refused::Unknown.into())
}

fn told(job: Result<Job, Refusal>) -> Response {
    match job {
        Ok(job) => json(StatusCode::OK, &job),
        Err(refusal) => refusal.into_response(),
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Spec(_) => StatusCode::BAD_REQUEST,
            Refused::Full(_) => StatusCode::TOO_MANY_REQUESTS,
            Refused::Unknown => StatusCode::NOT_FOUND,
            Refused::State(_) => StatusCode::CONFLICT,
            Refused::Busy | Refused::Stopping | Refused::Broker(_) | Refused::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refused.to_string())
    }
}
