//! The broker: its node (deploy/rabbitmq-node.sh), started, stopped and killed, and its queues.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lapin::options::{BasicAckOptions, BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::event::Event;
use crate::ledger::{Entry, Ledger};

/// Limit on everything that the broker is asked.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
/// Asks each quorum queue for what it is dead-lettering at least once (RabbitMQ 3.10 to 4.0, `rabbit_fifo_dlx:overview`).
const ON_THE_WAY: &str = "lists:sum([begin {ok, {_, O}, _} = ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:overview/1), \
    maps:get(num_discarded, O, 0) + maps:get(num_discard_checked_out, O, 0) end \
    || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue]).";

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    folder: PathBuf,
    script: PathBuf,
    port: u16,
}

impl Node {
    /// The node that runs in this folder.
    ///
    /// # Errors
    /// None does.
    pub fn running(folder: &Path, script: &Path) -> anyhow::Result<Self> {
        let port = std::fs::read_to_string(folder.join("port")).context("no node was started there")?.trim().parse()?;
        Ok(Self { folder: folder.to_owned(), script: script.to_owned(), port })
    }

    /// Its port for AMQP.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The AMQP URL of a virtual host, through whatever listens at that port.
    #[must_use]
    pub fn url_at(port: u16, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/{vhost}")
    }

    /// The AMQP URL of its default virtual host.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_at(self.port, "%2f")
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.run("stop", &[]).await.map(drop)
    }

    /// Ends it as a crash would. Before, it writes down which queues it has: RabbitMQ does so up to half a second late, and a
    /// queue declared since would come back empty, whatever it had confirmed.
    ///
    /// # Errors
    /// It cannot be done.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.ctl(&["-q", "eval", "[dets:sync(Table) || Table <- dets:all()]."]).await?;
        self.run("kill", &[]).await.map(drop)
    }

    /// Starts it again; the moment at which it takes connections is written down.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(&self, ledger: &Ledger) -> anyhow::Result<()> {
        let accepts = async {
            self.accepts().await?;
            ledger.write(Entry::BrokerAccepts);
            anyhow::Ok(())
        };
        let (started, accepted) = tokio::join!(self.run("start", &[]), accepts);
        started?;
        accepted
    }

    /// Waits until a protocol header gets an answer.
    async fn accepts(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT * 4;
        let answered = async || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(b"AMQP\0\0\x09\x01").await?;
            stream.read_u8().await
        };
        while !matches!(timeout(Duration::from_secs(2), answered()).await, Ok(Ok(1))) {
            ensure!(Instant::now() < deadline, "the broker does not take connections");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Runs `rabbitmqctl` against it and returns what it printed.
    ///
    /// # Errors
    /// It fails.
    pub async fn ctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("ctl", arguments).await
    }

    /// Messages that are out of their queue and not in the next one yet: a dead-lettering queue counts them no more, and would take them with it
    /// when it is deleted.
    ///
    /// # Errors
    /// The broker does not say.
    pub async fn on_the_way(&self) -> anyhow::Result<u64> {
        let said = self.ctl(&["-q", "eval", ON_THE_WAY]).await?;
        said.trim().parse().with_context(|| format!("messages on their way: {said:?}"))
    }

    async fn run(&self, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut script = Command::new("bash");
        script.arg(&self.script).arg(command).arg(&self.folder).args(arguments).stdin(Stdio::null());
        // A node that outlives this program would outlive everybody.
        script.env("CALLBACKD_NODE_OWNER", std::process::id().to_string());
        let output = script.output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmq-node.sh {command} {arguments:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Calls the management API.
    ///
    /// # Errors
    /// What it says.
    pub async fn manage(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        let url = format!("http://127.0.0.1:{}/api/{path}", self.port + 10_000);
        let mut request = client.request(method, url).basic_auth("guest", Some("guest"));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "the broker answered {} to {path}", answer.status());
        let bytes = answer.bytes().await?;
        if bytes.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&bytes)?) }
    }

    /// Its version.
    ///
    /// # Errors
    /// What it says.
    pub async fn version(&self) -> anyhow::Result<String> {
        let overview = self.manage(reqwest::Method::GET, "overview", None).await?;
        Ok(format!("RabbitMQ {}", overview["rabbitmq_version"].as_str().unwrap_or("?")))
    }

    /// The names of the queues of a virtual host.
    ///
    /// # Errors
    /// What it says.
    pub async fn queues(&self, vhost: &str) -> anyhow::Result<Vec<String>> {
        let Value::Array(listed) = self.manage(reqwest::Method::GET, &format!("queues/{vhost}?columns=name"), None).await? else {
            bail!("no list of queues")
        };
        Ok(listed.iter().filter_map(|queue| Some(queue["name"].as_str()?.to_owned())).collect())
    }
}

/// A connection to look at queues, empty and delete them. For one piece of work: faults end it.
#[derive(Debug)]
pub struct Desk {
    connection: Connection,
}

impl Desk {
    /// Connects; again and again for a while, as a broker that has just started may refuse.
    ///
    /// # Errors
    /// It cannot.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match timeout(LIMIT, Connection::connect(url, ConnectionProperties::default())).await {
                Ok(Ok(connection)) => return Ok(Self { connection }),
                Ok(Err(error)) if Instant::now() >= deadline => return Err(error).context("cannot connect to the broker"),
                Err(_) => bail!("cannot connect to the broker within {LIMIT:?}"),
                Ok(Err(_)) => sleep(POLL).await,
            }
        }
    }

    /// A channel, such as one that a refusal may close.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(timeout(LIMIT, self.connection.create_channel()).await??)
    }

    /// How many messages are ready in the queue; none where there is no such queue.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ready(&self, queue: &str) -> anyhow::Result<u64> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = self.channel().await?;
        match timeout(LIMIT, channel.queue_declare(queue.into(), options, FieldTable::default())).await? {
            Ok(queue) => {
                timeout(LIMIT, channel.close(200, "seen".into())).await??;
                Ok(u64::from(queue.message_count()))
            }
            Err(error) if error.is_amqp_soft_error() => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes out all that is ready in the queue and writes it down, each before it is acknowledged. Returns how many.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn drain(&self, queue: &str, ledger: &Ledger) -> anyhow::Result<u64> {
        let channel = self.channel().await?;
        let mut taken = 0;
        while let Some(got) = timeout(LIMIT, channel.basic_get(queue.into(), BasicGetOptions::default())).await?? {
            let id = got.delivery.properties.message_id().as_ref().map(ToString::to_string);
            let event = id.and_then(|id| Event::parse(&id)).map(|event| event.0);
            ledger.write(Entry::Drained { queue: queue.to_owned(), event });
            timeout(LIMIT, channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default())).await??;
            taken += 1;
        }
        // Acknowledgements are not answered; the close is, and comes after them.
        timeout(LIMIT, channel.close(200, "drained".into())).await??;
        Ok(taken)
    }

    /// Deletes a queue that has to be empty, and says how many messages went with it.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn delete_queue(&self, queue: &str) -> anyhow::Result<u32> {
        Ok(timeout(LIMIT, self.channel().await?.queue_delete(queue.into(), QueueDeleteOptions::default())).await??)
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// What the broker says.
    pub async fn delete_exchange(&self, exchange: &str) -> anyhow::Result<()> {
        Ok(timeout(LIMIT, self.channel().await?.exchange_delete(exchange.into(), ExchangeDeleteOptions::default())).await??)
    }
}
