//! Names that change their minds: the worker against a resolver whose answers lead somewhere else from one connection to the next.
//! The system's own resolver is used, and a file tells it what to answer (Debian's libnss-wrapper).

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod scene;
mod support;

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONNECTION;
use scene::{LIMIT, Scene, endpoint, event, integrator};
use support::{Vhost, Worker, eventually};
use tokio::net::TcpListener;

const NAME: &str = "hook.acme.example";
/// Admitted by the configuration.
const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Not admitted: whatever listens there must never be called.
const INNER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What the resolver answers.
struct Answers {
    file: PathBuf,
    changed_at: SystemTime,
}

impl Answers {
    fn new(folder: &Path, addresses: &[Ipv4Addr]) -> Self {
        let mut answers = Self { file: folder.join("hosts"), changed_at: SystemTime::UNIX_EPOCH };
        answers.change(addresses);
        answers
    }

    /// From the next question on. The library looks at the seconds of the file's time alone.
    fn change(&mut self, addresses: &[Ipv4Addr]) {
        self.changed_at += Duration::from_secs(2);
        let text: String = addresses.iter().map(|address| format!("{address} {NAME}\n")).collect();
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        File::options().write(true).open(&new).unwrap().set_modified(self.changed_at).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

/// Counts connections to an address that must have none, at the same port as an admitted one.
async fn canary(port: u16) -> Arc<AtomicUsize> {
    let (listener, hits) = (TcpListener::bind((INNER, port)).await.unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&hits);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    hits
}

/// An endpoint that ends each connection after its answer, so that the next request asks for the name again.
async fn admitted() -> (u16, Arc<AtomicUsize>) {
    let (listener, hits) = (TcpListener::bind((OURS, 0)).await.unwrap(), Arc::new(AtomicUsize::new(0)));
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::clone(&hits));
    let router = Router::new().fallback(async move || {
        count.fetch_add(1, Ordering::SeqCst);
        (StatusCode::NO_CONTENT, [(CONNECTION, "close")])
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (port, hits)
}

fn nss_wrapper() -> String {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    let found = folders.iter().map(|folder| format!("{folder}/libnss_wrapper.so")).find(|file| Path::new(file).exists());
    found.expect("please install libnss-wrapper (tests/run.sh does)")
}

async fn scene(port: u16, hosts: &Path) -> Scene {
    let vhost = Vhost::create().await;
    let config = scene::config(&vhost.url());
    let config = config.replace(
        "egress = { allow_http = true, allow_private_networks = true }",
        &format!("egress = {{ allow_http = true, allow_cidrs = [\"{OURS}/32\"], ports = [{port}] }}"),
    );
    let integrators = integrator("acme", &[endpoint("main", &format!("http://{NAME}:{port}/hook"), "")]);
    let wrapper = nss_wrapper();
    let environment = [("LD_PRELOAD", wrapper.as_str()), ("NSS_WRAPPER_HOSTS", hosts.to_str().unwrap())];
    let mut worker = Worker::start_with(&config, &integrators, &environment);
    worker.wait_ready().await;
    let amqp = vhost.connect().await;
    Scene { worker, amqp, vhost }
}

/// Waits for more attempts that were not made because of where they would have led.
async fn blocked(scene: &Scene) {
    let now = async || scene.log_lines("attempt").iter().filter(|line| line["class"] == "blocked").count();
    let before = now().await;
    eventually("blocked attempts", LIMIT, async || now().await > before + 1).await;
}

#[tokio::test]
async fn a_name_that_leads_inside_later_is_not_followed_and_nothing_is_lost_when_it_comes_back() {
    let (port, hits) = admitted().await;
    let inner = canary(port).await;
    let folder = tempfile::tempdir().unwrap();
    let mut answers = Answers::new(folder.path(), &[OURS]);
    let scene = scene(port, &answers.file).await;
    scene.publish(&event("evt-1")).await;
    eventually("the first event", LIMIT, async || hits.load(Ordering::SeqCst) == 1).await;

    for (number, rebound) in [vec![INNER], vec![OURS, INNER], vec![INNER, OURS]].into_iter().enumerate() {
        answers.change(&rebound);
        scene.publish(&event(&format!("evt-rebound-{number}"))).await;
        blocked(&scene).await;
    }
    assert_eq!((hits.load(Ordering::SeqCst), inner.load(Ordering::SeqCst)), (1, 0), "one bad address among good ones denies them all");

    answers.change(&[OURS]);
    eventually("the others when the name leads back", LIMIT, async || hits.load(Ordering::SeqCst) == 4).await;
    scene.settled().await;
    assert_eq!(inner.load(Ordering::SeqCst), 0);
}
