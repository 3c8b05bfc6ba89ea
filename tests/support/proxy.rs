//! A TCP proxy that breaks on command: cuts, holds back, refuses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::background::Background;

/// One end of a proxied connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connected to the proxy.
    Client,
    /// Whom the proxy connects to.
    Target,
}

/// A proxy on 127.0.0.1 to one target. Ends, and cuts all connections, when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _server: Background,
}

#[derive(Debug)]
struct Shared {
    orders: watch::Sender<Orders>,
    trap: Mutex<Option<(Side, Vec<u8>)>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// What connections are told, all at once.
#[derive(Debug, Clone, Copy, Default)]
struct Orders {
    /// Grows with each cut: a connection ends when it is no longer what it was at its start.
    cuts: usize,
    hold_client: bool,
    hold_target: bool,
    refuse: bool,
}

impl TcpProxy {
    /// Starts a proxy to `target` (host and port).
    pub fn to(target: impl Into<String>) -> Self {
        let target = target.into();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port to listen on");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            orders: watch::Sender::new(Orders::default()),
            trap: Mutex::default(),
            accepted: AtomicUsize::default(),
            open: AtomicUsize::default(),
        });
        let server = Background::run(serve(listener, target, Arc::clone(&shared)));
        Self { address, shared, _server: server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every open connection, both ends at once. New ones are taken as before.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Stops (or goes on) forwarding in both directions, silently: both ends stay connected and hear nothing. What was
    /// held back goes on its way afterwards.
    pub fn blackhole(&self, on: bool) {
        self.shared.orders.send_modify(|orders| (orders.hold_client, orders.hold_target) = (on, on));
    }

    /// Holds back what the target sends, such as a broker's confirms, while the client's bytes go through.
    pub fn hold_from_target(&self, on: bool) {
        self.shared.orders.send_modify(|orders| orders.hold_target = on);
    }

    /// Holds back what the client sends.
    pub fn hold_from_client(&self, on: bool) {
        self.shared.orders.send_modify(|orders| orders.hold_client = on);
    }

    /// Resets new connections at once. Open ones stay.
    pub fn refuse(&self, on: bool) {
        self.shared.orders.send_modify(|orders| orders.refuse = on);
    }

    /// Cuts everything the first time that `pattern` comes from `side`, before it is passed on. Once only.
    pub fn cut_before(&self, side: Side, pattern: &[u8]) {
        *self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some((side, pattern.to_vec()));
    }

    /// Whether the pattern of [`Self::cut_before`] has not come yet.
    pub fn is_armed(&self) -> bool {
        self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// How many connections were taken since the start, refused ones included.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }
}

impl Shared {
    fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Springs the trap when the bytes, with the end of those before, hold its pattern.
    fn springs(&self, side: Side, tail: &mut Vec<u8>, bytes: &[u8]) -> bool {
        let mut trap = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, pattern)) = trap.as_ref().filter(|(from, _)| *from == side) else {
            tail.clear();
            return false;
        };
        tail.extend_from_slice(bytes);
        if tail.windows(pattern.len()).any(|window| window == pattern) {
            *trap = None;
            return true;
        }
        let keep = tail.len().min(pattern.len() - 1);
        tail.drain(..tail.len() - keep);
        false
    }
}

async fn serve(listener: std::net::TcpListener, target: String, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::AcqRel);
        if shared.orders.borrow().refuse {
            let _ = client.set_zero_linger();
            continue;
        }
        let (target, shared) = (target.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // From now on: a cut while the target is being connected ends this connection too.
            let orders = shared.orders.subscribe();
            let cuts = orders.borrow().cuts;
            shared.open.fetch_add(1, Ordering::AcqRel);
            if let Ok(target) = TcpStream::connect(target).await {
                connection(client, target, &shared, (orders, cuts)).await;
            }
            shared.open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

async fn connection(mut client: TcpStream, mut target: TcpStream, shared: &Shared, (mut orders, cuts): (watch::Receiver<Orders>, usize)) {
    let (_, _) = (client.set_nodelay(true), target.set_nodelay(true));
    let cut = {
        let ((from_client, to_client), (from_target, to_target)) = (client.split(), target.split());
        let there = pump(Side::Client, from_client, to_target, shared);
        let back = pump(Side::Target, from_target, to_client, shared);
        tokio::select! {
            biased;
            // What was held back must not slip through when it is cut and let go at one time.
            _ = orders.wait_for(|orders| orders.cuts != cuts) => true,
            ((), ()) = async { tokio::join!(there, back) } => false,
        }
    };
    if cut {
        let (_, _) = (client.set_zero_linger(), target.set_zero_linger());
    }
}

/// Passes on what one side sends until it ends or the other side is gone.
async fn pump(side: Side, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) {
    let mut orders = shared.orders.subscribe();
    let (mut buffer, mut tail) = (vec![0; 64 << 10], Vec::new());
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let held = |orders: &Orders| match side {
            Side::Client => orders.hold_client,
            Side::Target => orders.hold_target,
        };
        let _ = orders.wait_for(|orders| !held(orders)).await;
        if shared.springs(side, &mut tail, &buffer[..length]) {
            shared.cut();
            return std::future::pending().await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
