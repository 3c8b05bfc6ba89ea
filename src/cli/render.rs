//! `callbackd render`: the exact request that an event would make. No broker is needed and nothing is sent.

use std::io::{self, Write};
use std::path::PathBuf;

use super::CliError;
use super::event_file::{EventFile, EventFiles};
use crate::clock;
use crate::config::{self, locate::locate};
use crate::domain::decode::decode;
use crate::domain::event::Event;
use crate::domain::format::{Format, Rendering, render};
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
        for (index, file) in files.enumerate() {
            let file = file.map_err(|fault| CliError::Usage(format!("{}: {fault}", self.file.display())))?;
            self.print_event(&file, &directory, output).map_err(|reason| CliError::Failed(format!("event {}: {reason}", index + 1)))?;
        }
        Ok(())
    }

    fn print_event(&self, file: &EventFile, directory: &Directory, output: &mut Output<'_>) -> Result<(), String> {
        let event = self.event(file)?;
        if let Some(format) = self.format {
            if !format.carries(&event.topic) {
                return note(&format!("{}: skipped: {}", event.id, SkipReason::NoClassicForm.as_str()), output);
            }
            return match body(format, &event)? {
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
                    note(&format!("{}/{}: skipped: {}", endpoint.integrator, endpoint.id, reason.as_str()), output)?;
                }
                to.iter().try_for_each(|endpoint| self.print_request(endpoint, &event, output))
            }
        }
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

    fn print_request(&self, endpoint: &Endpoint, event: &Event, output: &mut Output<'_>) -> Result<(), String> {
        let name = format!("{}/{}", endpoint.integrator, endpoint.id);
        let Some(body) = body(endpoint.format, event).map_err(|reason| format!("{name}: {reason}"))? else {
            return note(&format!("{name}: skipped: {}", SkipReason::NoRecords.as_str()), output);
        };
        if self.body_only {
            return write_body(&body, output);
        }
        let now = clock::now();
        let request = compose(endpoint, &[event], body, &Attempt { number: 1, received_at: now, now });
        note(&format!("{name}: {}", endpoint.url), output)?;
        let text = as_sent(&request, self.show_secrets);
        output.requests.write_all(&text).and_then(|()| output.requests.write_all(b"\n\n")).map_err(|error| error.to_string())
    }
}

fn body(format: Format, event: &Event) -> Result<Option<Vec<u8>>, String> {
    match render(format, &[event]) {
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
