//! The library itself under test, without the program around it: a configuration for a vhost.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callbackd::broker::{Ground, Inbound, Publisher, QueueRole, Subscription, Topology};
use callbackd::config::{
    Admin, Broker, BrokerUrl, Config, Dead, DeliveryLog, Egress, Log, LogFormat, Names, Outcomes, Source, Traces, Worker,
};
use callbackd::domain::ladder::Ladder;
use callbackd::domain::names::SourceName;
use callbackd::domain::policy::DeliveryPolicy;
use callbackd::telemetry::Telemetry;
use tokio::sync::{mpsc, watch};

/// A configuration with the default names and one source `compliance`, short limits and a ladder of one rung.
pub fn config(url: &str) -> Config {
    let second = Duration::from_secs(1);
    Config {
        broker: Broker {
            url: BrokerUrl::new(url.to_owned()),
            declare: true,
            names: Names {
                route: "callbacks.route".to_owned(),
                publish: "callbacks.publish".to_owned(),
                dead: "callbacks.dead".to_owned(),
                rejected: "callbacks.rejected".to_owned(),
                unroutable: "callbacks.unroutable".to_owned(),
            },
            heartbeat: second,
            timeout: 10 * second,
            publish_channels: 16,
        },
        sources: vec![Source {
            name: SourceName::try_new("compliance").expect("a name"),
            exchange: "compliance.events".to_owned(),
            queue: "callbacks.compliance".to_owned(),
            binding: "#".to_owned(),
            prefetch: NonZeroU16::new(100).expect("not 0"),
        }],
        ladder: Arc::new(Ladder::try_new(3600 * second, 3600 * second).expect("a ladder")),
        worker: Worker { max_body: 1 << 24, max_bytes_in_flight: 256 << 20, unknown_integrator_wait: second, stop_timeout: second },
        dead: Dead { retention: 3600 * second },
        delivery: DeliveryPolicy { timeout: second, ..DeliveryPolicy::default() },
        egress: Egress::anywhere(),
        delivery_log: DeliveryLog::off(),
        outcomes: Outcomes::off(),
        traces: Traces::off(),
        admin: Admin {
            listen: "127.0.0.1:0".parse().expect("an address"),
            api: false,
            console: false,
            path_prefix: String::new(),
            tokens: Vec::new(),
        },
        integrators_file: PathBuf::from("integrators.toml"),
        secrets_dir: None,
        log: Log { format: LogFormat::Auto, level: "info".to_owned() },
    }
}

/// The name of the work queue of [`config`].
pub const WORK: &str = "callbacks.compliance";

/// Starts a publisher.
pub fn publisher(config: &Config) -> Publisher {
    Publisher::start(config, Arc::new(Topology::new(config)), Telemetry::default())
}

/// Starts to read the work queue, whether copies can be published or not.
pub fn subscribe(config: &Config, prefetch: u16) -> (Subscription, mpsc::Receiver<Inbound>) {
    subscribe_on(config, prefetch, Ground::new(Arc::new(Topology::new(config)), watch::channel(true).1))
}

/// Starts to read the work queue.
pub fn subscribe_on(config: &Config, prefetch: u16, ground: Ground) -> (Subscription, mpsc::Receiver<Inbound>) {
    let role = QueueRole { source: config.sources[0].name.clone(), queue: WORK.to_owned(), due: false };
    let prefetch = NonZeroU16::new(prefetch).expect("not 0");
    Subscription::start(role, prefetch, config, ground, Telemetry::default())
}

/// What the library logs on this thread for as long as this lives.
pub struct OwnLog {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl OwnLog {
    /// Begins to listen.
    pub fn listen() -> Self {
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let writer = Arc::clone(&text);
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || Pen(Arc::clone(&writer))).finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that hold this text.
    pub fn lines(&self, holding: &str) -> Vec<String> {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).lines().filter(|line| line.contains(holding)).map(str::to_owned).collect()
    }
}

struct Pen(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
