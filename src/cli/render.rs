//! `callbackd render`: the exact request that an event would make. No broker is needed and nothing is sent.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::{iter, slice};

use http::HeaderValue;
use http::header::AUTHORIZATION;

use super::CliError;
use super::event_file::{EventFile, EventFiles};
use crate::clock;
use crate::config::{self, locate::locate};
use crate::domain::auth::Auth;
use crate::domain::batch::{Fill, Share, Waiting, share};
use crate::domain::decode::decode;
use crate::domain::event::Event;
use crate::domain::format::{Format, Rendering, render};
use crate::domain::history::History;
use crate::domain::integrator::{Directory, Endpoint, SkipReason};
use crate::domain::names::{EndpointId, IntegratorKey};
use crate::domain::request::{Attempt, compose};
use crate::domain::route::{Route, route};
use crate::egress::as_sent;

/// Shows the exact requests that events would make, WITH THEIR BODIES and the endpoint's whole URL; sends nothing
#[derive(Debug, Clone, clap::Args)]
pub struct Render {
    /// Render as if the events were for this integrator; by default for whom they name
    #[arg(long, value_name = "KEY")]
    pub integrator: Option<String>,
    /// Only for this endpoint of the integrator
    #[arg(long, value_name = "ID")]
    pub endpoint: Option<String>,
    /// Print the bodies alone, one after another
    #[arg(long)]
    pub body_only: bool,
    /// Print the body in this format (classic, topic); needs no configuration
    #[arg(long, value_name = "FORMAT", value_parser = format, conflicts_with_all = ["integrator", "endpoint"])]
    pub format: Option<Format>,
    /// Show what requests would hold if all events were waiting: several in one where the endpoint allows batches
    #[arg(long, conflicts_with = "format")]
    pub batch: bool,
    /// Print the values of secret headers too
    #[arg(long)]
    pub show_secrets: bool,
    /// A file of events, each {"properties":{...},"body":...} or a body alone; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
}

/// Where requests go, and where it says why there is none.
struct Output<'a> {
    requests: &'a mut dyn Write,
    notes: &'a mut dyn Write,
}

impl Render {
    /// Prints requests on standard output, and on standard error which endpoints are skipped and why. `path` names the
    /// configuration file.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a bad configuration or file; [`CliError::Failed`] at the first event that would be
    /// rejected, which names the reason, and when standard output is closed.
    pub async fn run(self, path: Option<PathBuf>) -> Result<(), CliError> {
        self.print(path, &mut Output { requests: &mut io::stdout(), notes: &mut io::stderr() })
    }

    fn print(&self, path: Option<PathBuf>, output: &mut Output<'_>) -> Result<(), CliError> {
        let directory = match self.format {
            Some(_) => Directory::new(),
            None => config::load_all(&locate(path)?)?.1,
        };
        let files = EventFiles::open(&self.file).map_err(|fault| CliError::Usage(format!("{}: {fault}", self.file.display())))?;
        let mut lines = Lines::default();
        for (index, file) in files.enumerate() {
            let file = file.map_err(|fault| CliError::Usage(format!("{}: {fault}", self.file.display())))?;
            let printed = self.print_event(&file, &directory, &mut lines, output);
            printed.map_err(|reason| CliError::Failed(format!("event {}: {reason}", index + 1)))?;
        }
        lines.rest().try_for_each(|(endpoint, events)| self.print_request(&endpoint, &events, output)).map_err(CliError::Failed)
    }

    fn print_event(&self, file: &EventFile, directory: &Directory, lines: &mut Lines, output: &mut Output<'_>) -> Result<(), String> {
        let event = self.event(file)?;
        if let Some(format) = self.format {
            if !format.carries(&event.topic) {
                return note(&format!("{}: skipped: {}", event.id, SkipReason::NoClassicForm.as_str()), output);
            }
            return match body(format, &[&event])? {
                Some(body) => write_body(&body, output),
                None => note(&format!("{}: skipped: {}", event.id, SkipReason::NoRecords.as_str()), output),
            };
        }
        let only = self.endpoint.as_deref().map(EndpointId::try_new).transpose().map_err(|fault| format!("--endpoint {fault}"))?;
        match route(directory, &event, only.as_ref()) {
            Route::UnknownIntegrator => Err(format!("no integrator `{}` is configured", event.integrator)),
            Route::UnknownEndpoint => Err(format!("integrator `{}` has no such endpoint", event.integrator)),
            Route::Deliveries { to, skipped } => {
                for (endpoint, reason) in skipped {
                    note(&format!("{}: skipped: {}", name(&endpoint), reason.as_str()), output)?;
                }
                to.into_iter().try_for_each(|endpoint| self.print_delivery(endpoint, &event, lines, output))
            }
        }
    }

    /// Prints what an event has an endpoint told, at once or when the request that it shares is full.
    fn print_delivery(&self, endpoint: Arc<Endpoint>, event: &Event, lines: &mut Lines, output: &mut Output<'_>) -> Result<(), String> {
        // Before it joins others, so that a fault is reported where the event stands.
        if body(endpoint.format, &[event]).map_err(|reason| format!("{}: {reason}", name(&endpoint)))?.is_none() {
            return note(&format!("{}: skipped: {}", name(&endpoint), SkipReason::NoRecords.as_str()), output);
        }
        if !self.batch {
            return self.print_request(&endpoint, slice::from_ref(event), output);
        }
        lines.push(&endpoint, event.clone()).iter().try_for_each(|events| self.print_request(&endpoint, events, output))
    }

    /// The event of a file, for whom `--integrator` says.
    fn event(&self, file: &EventFile) -> Result<Event, String> {
        let key = self.integrator.as_deref().map(IntegratorKey::try_new).transpose().map_err(|fault| format!("--integrator {fault}"))?;
        let mut metadata = file.properties.metadata();
        if let Some(key) = &key {
            metadata.integrator = Some(key.as_str().as_bytes());
        } else if self.format.is_some() && metadata.integrator.is_none() {
            // A body says nothing of its integrator, so any will do.
            metadata.integrator = Some(b"anybody");
        }
        let mut event = decode(file.body.clone(), &metadata).map_err(|reason| reason.to_string())?;
        if let Some(key) = key {
            event.integrator = key;
        }
        Ok(event)
    }

    /// Prints the request that tells of these events, each of which has a form.
    fn print_request(&self, endpoint: &Endpoint, events: &[Event], output: &mut Output<'_>) -> Result<(), String> {
        let events: Vec<&Event> = events.iter().collect();
        let Some(body) = body(endpoint.format, &events)? else { return Ok(()) };
        if self.body_only {
            return write_body(&body, output);
        }
        let now = clock::now();
        let mut request = compose(endpoint, &events, body, &Attempt { number: 1, received_at: now, now });
        if let Auth::OAuth2(_) = endpoint.auth {
            request.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer (an access token)"));
        }
        note(&format!("{}: {}", name(endpoint), endpoint.url), output)?;
        let text = as_sent(&request, self.show_secrets);
        output.requests.write_all(&text).and_then(|()| output.requests.write_all(b"\n\n")).map_err(|error| error.to_string())
    }
}

/// Events that wait for others at the endpoints that they go to.
#[derive(Default)]
struct Lines(Vec<(Arc<Endpoint>, VecDeque<Event>)>);

impl Lines {
    /// Puts an event in line at an endpoint, and takes out the requests that are full with it.
    fn push(&mut self, endpoint: &Arc<Endpoint>, event: Event) -> Vec<Vec<Event>> {
        let at = self.0.iter().position(|(known, _)| Arc::ptr_eq(known, endpoint)).unwrap_or_else(|| {
            self.0.push((Arc::clone(endpoint), VecDeque::new()));
            self.0.len() - 1
        });
        let line = &mut self.0[at].1;
        line.push_back(event);
        iter::from_fn(|| take(endpoint, line, |fill| fill == Fill::Full)).collect()
    }

    /// What is left.
    fn rest(self) -> impl Iterator<Item = (Arc<Endpoint>, Vec<Event>)> {
        self.0
            .into_iter()
            .flat_map(|(endpoint, mut line)| iter::from_fn(move || Some((Arc::clone(&endpoint), take(&endpoint, &mut line, |_| true)?))))
    }
}

/// Takes the next request from the head of a line, if it is as `wanted`.
fn take(endpoint: &Endpoint, line: &mut VecDeque<Event>, wanted: impl Fn(Fill) -> bool) -> Option<Vec<Event>> {
    let fresh = History::new(clock::now());
    let Share { count, fill } = share(line.iter().map(|event| Waiting::of(event, &fresh)), &endpoint.policy.batch);
    (count > 0 && wanted(fill)).then(|| line.drain(..count).collect())
}

fn name(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.integrator, endpoint.id)
}

fn body(format: Format, events: &[&Event]) -> Result<Option<Vec<u8>>, String> {
    match render(format, events) {
        Ok(Rendering::Body(body)) => Ok(Some(body)),
        Ok(Rendering::Nothing) => Ok(None),
        Err(reason) => Err(format!("has no {format} form: {reason}")),
    }
}

fn write_body(body: &[u8], output: &mut Output<'_>) -> Result<(), String> {
    output.requests.write_all(body).and_then(|()| output.requests.write_all(b"\n")).map_err(|error| error.to_string())
}

fn note(text: &str, output: &mut Output<'_>) -> Result<(), String> {
    writeln!(output.notes, "{text}").map_err(|error| error.to_string())
}

fn format(text: &str) -> Result<Format, String> {
    [Format::Classic, Format::Topic].into_iter().find(|format| format.as_str() == text).ok_or_else(|| "write classic or topic".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroU16;
    use std::path::Path;

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        render: Render,
    }

    /// A folder with a configuration of one integrator with two endpoints, and these events.
    fn folder(events: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let source = "[broker]\nurl = \"amqp://127.0.0.1\"\n[[source]]\nname = \"compliance\"\nexchange = \"compliance.events\"\n";
        fs::write(folder.path().join("callbackd.toml"), source).unwrap();
        let integrators = r#"
            [[integrator]]
            key = "acme"
            [[integrator.endpoint]]
            id = "old"
            url = "https://acme.example/hook?token=x"
            signing_secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
            headers = { x-acme-signature = "s3cret" }
            [[integrator.endpoint]]
            id = "new"
            url = "https://acme.example:8443/new"
            format = "topic""#;
        fs::write(folder.path().join("integrators.toml"), integrators).unwrap();
        fs::write(folder.path().join("events.json"), events).unwrap();
        folder
    }

    /// Runs the command in the folder: requests, notes, error.
    fn run(folder: &Path, arguments: &[&str]) -> (String, String, Option<String>) {
        let file = folder.join("events.json");
        let line = Line::try_parse_from([&["render"], arguments, &[file.to_str().unwrap()]].concat()).unwrap();
        let (mut requests, mut notes) = (Vec::new(), Vec::new());
        let ended = line.render.print(Some(folder.join("callbackd.toml")), &mut Output { requests: &mut requests, notes: &mut notes });
        (String::from_utf8(requests).unwrap(), String::from_utf8(notes).unwrap(), ended.err().map(|error| error.to_string()))
    }

    const RECORD: &str = r#"{"status":100,"key":"k","modified":"m"}"#;

    fn compliance() -> String {
        format!(r#"{{"properties":{{}},"body":{{"id":"e1","integrator":"acme","topic":"complianceRecord","data":[{RECORD}]}}}}"#)
    }

    #[test]
    fn shows_a_request_for_every_endpoint_and_hides_secret_headers() {
        let folder = folder(&compliance());
        let (requests, notes, error) = run(folder.path(), &[]);
        assert_eq!(error, None);
        assert_eq!(notes, "acme/old: https://acme.example\nacme/new: https://acme.example:8443\n");
        assert!(requests.starts_with("POST /hook?token=x HTTP/1.1\r\nhost: acme.example\r\n"), "{requests}");
        assert!(requests.contains("x-acme-signature: (hidden)\r\n") && !requests.contains("s3cret"), "{requests}");
        assert!(requests.contains("webhook-signature: v1,") && requests.contains("callback-attempt: 1\r\n"), "{requests}");
        assert!(requests.contains(&format!("\r\n\r\n[{RECORD}]\n")), "{requests}");
        assert!(requests.contains("POST /new HTTP/1.1\r\nhost: acme.example:8443\r\n"), "{requests}");
        let (requests, ..) = run(folder.path(), &["--show-secrets", "--endpoint", "old"]);
        assert!(requests.contains("x-acme-signature: s3cret\r\n") && !requests.contains("/new"), "{requests}");
    }

    #[test]
    fn shows_bodies_alone_and_says_what_is_skipped() {
        let folder = folder(&format!("{} {}", compliance(), r#"{"topic":"identResult","a":1.0}"#));
        let (requests, notes, error) = run(folder.path(), &["--body-only", "--integrator", "acme"]);
        assert_eq!(error, None);
        let topic = format!(r#"[{{"topic":"complianceRecord","complianceRecord":[{RECORD}]}}]"#);
        assert_eq!(requests, format!("[{RECORD}]\n{topic}\n[{{\"topic\":\"identResult\",\"a\":1.0}}]\n"));
        assert_eq!(notes, "acme/old: skipped: no_classic_form\n");
    }

    #[test]
    fn events_that_would_wait_share_requests_where_the_endpoint_allows_it() {
        let event = |id: usize| {
            format!(
                r#"{{"id":"e{id}","integrator":"acme","topic":"complianceRecord","data":[{{"status":{id},"key":"k","modified":"m"}}]}}"#
            )
        };
        let folder = folder(&(1..=5).map(event).collect::<String>());
        let (requests, notes, error) = run(folder.path(), &["--batch", "--endpoint", "old"]);
        assert_eq!((requests.matches("POST /hook").count(), notes.lines().count(), error), (5, 5, None), "no batches are allowed");

        let mut endpoint = config::load_all(&folder.path().join("callbackd.toml")).unwrap().1.all().next().unwrap().as_ref().clone();
        endpoint.policy.batch.max_events = NonZeroU16::new(2).unwrap();
        let (endpoint, mut lines) = (Arc::new(endpoint), Lines::default());
        let ids = |events: &[Event]| events.iter().map(|event| event.id.to_string()).collect::<Vec<_>>().join(",");
        let mut full = Vec::new();
        for file in EventFiles::open(&folder.path().join("events.json")).unwrap().map(Result::unwrap) {
            let event = decode(file.body.clone(), &file.properties.metadata()).unwrap();
            full.extend(lines.push(&endpoint, event).iter().map(|events| ids(events)));
        }
        assert_eq!(full, ["e1,e2", "e3,e4"], "shown as soon as they are full");
        assert_eq!(lines.rest().map(|(_, events)| ids(&events)).collect::<Vec<_>>(), ["e5"]);
    }

    #[test]
    fn a_format_needs_no_configuration() {
        let folder = folder(r#"{"topic":"identResult","a":1.0}"#);
        fs::remove_file(folder.path().join("callbackd.toml")).unwrap();
        assert_eq!(run(folder.path(), &["--format", "topic"]).0, "[{\"topic\":\"identResult\",\"a\":1.0}]\n");
    }

    #[test]
    fn what_has_no_classic_form_is_skipped_and_no_failure() {
        // Of the second, the array would make classic records; of the third, none; the last has them and they are broken.
        let custom = format!(r#"{{"id":"e2","integrator":"acme","topic":"custom","data":[{RECORD}]}}"#);
        let empty = r#"{"id":"e3","integrator":"acme","topic":"complianceRecord","data":[]}"#;
        let broken = r#"{"id":"e4","integrator":"acme","topic":"complianceRecord","data":[1]}"#;
        let folder = folder(&format!(r#"{{"id":"e1","integrator":"acme","topic":"identResult","data":{{}}}} {custom} {empty} {broken}"#));
        let (bodies, notes, error) = run(folder.path(), &["--format", "classic"]);
        assert_eq!((bodies.as_str(), error.as_deref()), ("", Some("event 4: has no classic form: record 0 is not an object")));
        assert_eq!(notes, "e1: skipped: no_classic_form\ne2: skipped: no_classic_form\ne3: skipped: no_records\n");
    }

    #[test]
    fn names_what_would_be_rejected() {
        for (events, arguments, expected) in [
            ("{}", vec![], "event 1: no topic: neither member `topic` nor AMQP property `type` is given"),
            (r#"{"topic":"t"}"#, vec!["--integrator", "x"], "event 1: no integrator `x` is configured"),
            (r#"{"topic":"t"}"#, vec!["--integrator", "acme", "--endpoint", "x"], "event 1: integrator `acme` has no such endpoint"),
        ] {
            assert_eq!(run(folder(events).path(), &arguments).2.as_deref(), Some(expected));
        }
        let error = run(folder("{").path(), &["--format", "topic"]).2.unwrap();
        assert!(error.ends_with("events.json: document 1 is not JSON: line 1, column 1"), "{error}");
    }
}
