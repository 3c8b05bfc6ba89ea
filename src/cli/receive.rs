//! `callbackd receive`: a local receiver for those who build one. It shows what arrives, checks signatures, and plays
//! slow, failing and flaky.

mod seen;
mod show;
mod signature;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read as _, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::seen::Seen;
use self::signature::{Keys, Signature};
use super::CliError;
use crate::clock;
use crate::config::parse_duration;

/// Bytes of a body beyond which the answer is 413: four times what the worker takes in by default.
const BODY_LIMIT: usize = 64 * 1024 * 1024;
/// Messages whose failures are remembered for `--fail-first`; the oldest is forgotten first.
const REMEMBERED: usize = 100_000;
/// Bytes of a secret's file that are read; no secret is as long.
const SECRET_LIMIT: u64 = 64 * 1024;
/// How long a stop waits for answers under way.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Receives callbacks on this machine and shows them, WITH THEIR BODIES: a tool for developers, not for personal data
#[derive(Debug, Clone, clap::Args)]
pub struct Receive {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Check signatures with this secret (whsec_..., whsk_...) or public key (whpk_...); give several while they rotate. A
    /// request without a valid signature is answered 401
    #[arg(long = "secret", value_name = "SECRET")]
    pub secrets: Vec<SecretString>,
    /// The same, from an environment variable: unlike an argument, it is not shown by ps
    #[arg(long = "secret-env", value_name = "NAME")]
    pub secrets_env: Vec<String>,
    /// The same, from a file
    #[arg(long = "secret-file", value_name = "PATH")]
    pub secrets_file: Vec<PathBuf>,
    /// Answer 503 to the first N attempts of each message (each webhook-id)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub fail_first: u32,
    /// Always answer with this status
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: Option<u16>,
    /// Ask with every answer but a 2xx to be tried again after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub retry_after: Option<u64>,
    /// Answer so much later, such as 250ms or 2s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub delay: Option<Duration>,
    /// Answer 503 to this share of the requests, 0 to 1, drawn at random
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub flaky: f64,
    /// Take requests and never answer
    #[arg(long)]
    pub hang: bool,
    /// Print one JSON object a line, with all headers
    #[arg(long)]
    pub json: bool,
    /// Show all headers of each request, secret ones too
    #[arg(long)]
    pub headers: bool,
    /// Stop, with exit code 0, after N requests that were answered with a 2xx
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// A name for this receiver in its output, where several run
    #[arg(long, value_name = "LABEL")]
    pub name: Option<String>,
}

impl Receive {
    /// Listens until `--count` is reached or the process is told to stop; prints what arrives on standard output.
    ///
    /// # Errors
    /// A secret that is none, or an address that cannot be listened on.
    pub async fn run(self) -> Result<(), CliError> {
        let listener =
            TcpListener::bind(self.listen).await.map_err(|error| CliError::Failed(format!("cannot listen on {}: {error}", self.listen)))?;
        let receiver = Receiver::new(self, Box::new(std::io::stdout()))?;
        if let Ok(address) = listener.local_addr() {
            eprintln!("listening on http://{address}/ (bodies are shown)");
        }
        receiver.serve(listener, told_to_stop()).await
    }
}

/// Ends when the terminal (Ctrl-C) or the system (SIGTERM) asks for it.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// A running receiver.
struct Receiver {
    plays: Receive,
    keys: Keys,
    state: Mutex<Progress>,
    enough: CancellationToken,
}

/// What changes while requests come in; and the output, so that blocks do not mix.
struct Progress {
    out: Box<dyn Write + Send>,
    failures: HashMap<String, u32>,
    order: VecDeque<String>,
    good: u64,
}

impl Receiver {
    fn new(plays: Receive, out: Box<dyn Write + Send>) -> Result<Arc<Self>, CliError> {
        let keys = keys(&plays)?;
        let state = Progress { out, failures: HashMap::new(), order: VecDeque::new(), good: 0 };
        Ok(Arc::new(Self { plays, keys, state: state.into(), enough: CancellationToken::new() }))
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<(), CliError> {
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self));
        let enough = self.enough.clone();
        let ended = self.enough.clone();
        let mut server = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(enough.cancelled_owned()).await });
        tokio::select! {
            () = stop => self.enough.cancel(),
            () = ended.cancelled() => {}
            served = &mut server => return match served {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(CliError::Failed(format!("cannot go on listening: {error}"))),
                Err(error) => Err(CliError::Failed(format!("the receiver broke: {error}"))),
            },
        }
        // A request that hangs on purpose would hold the stop up for ever.
        if tokio::time::timeout(STOP_LIMIT, &mut server).await.is_err() {
            server.abort();
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a request is answered, by what this receiver plays: a fixed status, then the signature, then the failures.
    fn status(&self, seen: &Seen) -> StatusCode {
        if let Some(status) = self.plays.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            return status;
        }
        if matches!(seen.signature, Signature::Invalid | Signature::Unsigned) {
            return StatusCode::UNAUTHORIZED;
        }
        let planned =
            self.plays.fail_first > 0 && self.state().fails(seen.webhook_id.as_deref().unwrap_or_default(), self.plays.fail_first);
        if planned || fastrand::f64() < self.plays.flaky {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        StatusCode::OK
    }

    /// Prints a request with its answer, or the answer that is planned for it.
    fn show(&self, seen: &Seen, status: Option<StatusCode>) {
        let status = status.map(|status| status.as_u16());
        let name = self.plays.name.as_deref();
        let text = if self.plays.json { show::json(seen, status, name) } else { show::block(seen, status, name, self.plays.headers) };
        let mut state = self.state();
        // Nobody reads any more: go on answering, the sender is not to suffer.
        let _ = state.out.write_all(text.as_bytes()).and_then(|()| state.out.flush());
    }

    /// Counts an answer that goes out.
    fn count(&self, status: StatusCode) {
        if status.is_success() {
            let mut state = self.state();
            state.good += 1;
            if self.plays.count.is_some_and(|count| state.good >= count) {
                self.enough.cancel();
            }
        }
    }
}

impl Progress {
    /// Whether this attempt is among the first `limit` of its message.
    fn fails(&mut self, webhook_id: &str, limit: u32) -> bool {
        if let Some(failures) = self.failures.get_mut(webhook_id) {
            *failures = failures.saturating_add(1);
            return *failures <= limit;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.failures.remove(&oldest);
        }
        self.order.push_back(webhook_id.to_owned());
        self.failures.insert(webhook_id.to_owned(), 1);
        true
    }
}

async fn answer(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let seen = Seen::new(&head, body, &receiver.keys, clock::now());
    if receiver.plays.hang {
        receiver.show(&seen, None);
        return std::future::pending().await;
    }
    let status = receiver.status(&seen);
    // Before the delay: a sender that gives up meanwhile ends this function where it waits.
    receiver.show(&seen, Some(status));
    if let Some(delay) = receiver.plays.delay {
        tokio::time::sleep(delay).await;
    }
    receiver.count(status);
    let mut response = status.into_response();
    if let Some(seconds) = receiver.plays.retry_after.filter(|_| !status.is_success()) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// All keys, wherever they come from. No error repeats one.
fn keys(plays: &Receive) -> Result<Keys, CliError> {
    let arguments = plays.secrets.iter().map(|secret| ("--secret".to_owned(), Ok(secret.clone())));
    let variables = plays.secrets_env.iter().map(|name| {
        let read = std::env::var(name).map_err(|_| "is not set (or is not UTF-8)".to_owned());
        (format!("--secret-env {name}"), read.map(SecretString::from))
    });
    let files = plays.secrets_file.iter().map(|path| (format!("--secret-file {}", path.display()), secret_in(path)));
    let mut keys = Keys::default();
    for (from, secret) in arguments.chain(variables).chain(files) {
        let added = secret.and_then(|secret| keys.add(secret.expose_secret()).map_err(|fault| fault.to_string()));
        added.map_err(|fault| CliError::Usage(format!("{from} {fault}")))?;
    }
    Ok(keys)
}

/// The text of a small file, whose last line break is no part of it.
fn secret_in(path: &Path) -> Result<SecretString, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(SECRET_LIMIT).read_to_string(&mut text));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text.trim_end_matches(['\r', '\n']).into())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number with a unit, such as 250ms, 2s or 1m".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "write a number from 0 to 1, such as 0.3".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::Egress as EgressConfig;
    use crate::domain::reply::{Outcome, RetryAfter};
    use crate::domain::request::CallbackRequest;
    use crate::domain::sign::{SigningSecret, sign};
    use crate::egress::Egress;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        receive: Receive,
    }

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Running {
        address: SocketAddr,
        output: Output,
        served: tokio::task::JoinHandle<Result<(), CliError>>,
    }

    impl Running {
        async fn start(arguments: &[&str]) -> Self {
            let line = Line::try_parse_from([&["receive", "--json"], arguments].concat()).unwrap();
            let output = Output::default();
            let receiver = Receiver::new(line.receive, Box::new(output.clone())).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            Self { address, output, served: tokio::spawn(receiver.serve(listener, std::future::pending())) }
        }

        async fn post(&self, webhook_id: &str, headers: &[(&'static str, &str)]) -> Outcome {
            self.post_within(Duration::from_secs(5), webhook_id, headers).await
        }

        async fn post_within(&self, limit: Duration, webhook_id: &str, headers: &[(&'static str, &str)]) -> Outcome {
            let egress = Egress::new(&EgressConfig::anywhere()).unwrap();
            let mut map = axum::http::HeaderMap::new();
            for (name, value) in headers.iter().chain(&[("webhook-id", webhook_id)]) {
                map.insert(*name, value.parse().unwrap());
            }
            let url = format!("http://{}/hook", self.address).parse().unwrap();
            let request = CallbackRequest { url, headers: map, body: "[1]".into(), webhook_id: webhook_id.into(), tls: None };
            egress.attempt(request, limit).await.outcome
        }

        fn lines(&self) -> Vec<serde_json::Value> {
            let output = self.output.0.lock().unwrap();
            String::from_utf8_lossy(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answered { status, retry_after: retry_after.map(|seconds| RetryAfter::Delay(Duration::from_secs(seconds))) }
    }

    #[tokio::test]
    async fn fails_the_first_attempts_of_each_message_and_stops_after_the_good_ones() {
        let receiver = Running::start(&["--fail-first", "2", "--retry-after", "7", "--count", "2", "--name", "left"]).await;
        for (message, expected) in [
            ("a", answered(503, Some(7))),
            ("b", answered(503, Some(7))),
            ("a", answered(503, Some(7))),
            ("a", answered(200, None)),
            ("b", answered(503, Some(7))),
            ("b", answered(200, None)),
        ] {
            assert_eq!(receiver.post(message, &[]).await, expected, "{message}");
        }
        let lines = receiver.lines();
        assert_eq!(lines.len(), 6);
        assert_eq!((&lines[5]["name"], &lines[5]["body"], &lines[5]["status"]), (&"left".into(), &"[1]".into(), &200.into()));
        receiver.served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn refuses_what_is_not_signed_where_it_has_a_secret() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("{secret}\r\n")).unwrap();
        let receiver = Running::start(&["--secret-file", file.path().to_str().unwrap()]).await;
        let now = clock::now();
        let signature = sign(&[SigningSecret::parse(secret).unwrap()], "m", now, b"[1]").unwrap();
        let timestamp = now.seconds().to_string();
        let signed = [("webhook-timestamp", timestamp.as_str()), ("webhook-signature", signature.as_str())];
        assert_eq!(receiver.post("m", &signed).await, answered(200, None));
        assert_eq!(receiver.post("other", &signed).await, answered(401, None));
        assert_eq!(receiver.post("m", &[]).await, answered(401, None));
        let signatures: Vec<_> = receiver.lines().iter().map(|line| line["signature"].clone()).collect();
        assert_eq!(signatures, ["valid", "invalid", "unsigned"]);
    }

    #[tokio::test]
    async fn plays_one_status_or_flaky_or_slow() {
        let receiver = Running::start(&["--status", "418", "--delay", "30ms"]).await;
        let start = tokio::time::Instant::now();
        assert_eq!(receiver.post("m", &[]).await, answered(418, None));
        assert!(start.elapsed() >= Duration::from_millis(30));
        let receiver = Running::start(&["--flaky", "1"]).await;
        assert_eq!(receiver.post("m", &[]).await, answered(503, None));
    }

    #[tokio::test]
    async fn an_attempt_that_is_given_up_during_the_delay_shows_and_does_not_count() {
        let receiver = Running::start(&["--delay", "60s", "--count", "1"]).await;
        let given_up = receiver.post_within(Duration::from_millis(200), "m", &[("traceparent", "00-x")]).await;
        assert_eq!(given_up, Outcome::Failed(crate::domain::reply::Failure::Timeout));
        let lines = receiver.lines();
        assert_eq!((lines.len(), &lines[0]["status"], &lines[0]["headers"]["traceparent"]), (1, &200.into(), &"00-x".into()));
        assert!(!receiver.served.is_finished());
    }

    #[test]
    fn a_bad_secret_is_not_repeated() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "hunter2").unwrap();
        let path = file.path().to_str().unwrap();
        for (arguments, expected) in [
            (["--secret", "hunter2"], "--secret starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)".to_owned()),
            (["--secret-file", path], format!("--secret-file {path} starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)")),
            // Every process of the tests has one, and it is no secret.
            (
                ["--secret-env", "CARGO_MANIFEST_DIR"],
                "--secret-env CARGO_MANIFEST_DIR starts with neither `whsec_` (HMAC) nor `whsk_` (ed25519)".to_owned(),
            ),
            (["--secret-env", "NO_SUCH_VARIABLE"], "--secret-env NO_SUCH_VARIABLE is not set (or is not UTF-8)".to_owned()),
        ] {
            let line = Line::try_parse_from([&["receive"], arguments.as_slice()].concat()).unwrap();
            let fault = Receiver::new(line.receive, Box::new(Vec::new())).err().unwrap();
            assert_eq!(fault.to_string(), expected);
        }
    }

    #[test]
    fn shares_and_times_have_bounds() {
        for arguments in [["--flaky", "1.1"], ["--flaky", "NaN"], ["--delay", "2"], ["--status", "199"], ["--count", "0"]] {
            assert!(Line::try_parse_from([&["receive"], arguments.as_slice()].concat()).is_err(), "{arguments:?}");
        }
    }
}
