//! Keeps the client library from reading ahead of us.
//!
//! The library reads on a thread of its own into a list without a limit, as fast as the broker sends: a thread of ours that
//! was busy for two seconds found 116 MiB of messages there that nobody had weighed (RabbitMQ 4.0.5). So its socket stands behind
//! a valve, which closes when so much was read and not looked at, and opens when it is. The broker then waits on TCP.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::task::AtomicWaker;

/// Bytes that may be read ahead. The library's own buffer, which it fills in one go, has 4 MiB too.
const AHEAD: u64 = 4 << 20;

/// The valve of one connection: one end is in the socket, the other with who takes the messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Valve(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Bytes read from the socket.
    read: AtomicU64,
    /// Of those, how many had been read when nothing was left to take.
    taken: AtomicU64,
    /// It does not close any more.
    open: AtomicBool,
    /// Nothing is read any more.
    cut: AtomicBool,
    reader: AtomicWaker,
    taker: AtomicWaker,
}

impl Valve {
    /// Lets everything through from now on.
    pub(super) fn stay_open(&self) {
        self.0.open.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// Ends the connection where it has not ended yet: whoever took the messages is gone, and the library would go on and read
    /// whatever the broker still sends.
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// Takes the next of what the library has read, with `take`. A valve that has closed wakes who calls this: the library
    /// may have read the beginning of a message that is larger than what may be read ahead.
    pub(super) fn poll_taking<T>(&self, context: &mut Context<'_>, take: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let state = &*self.0;
        // Before the look: what is read during it may not have been seen.
        let read = state.read.load(Ordering::Acquire);
        let taken = take(context);
        if taken.is_pending() {
            state.taker.register(context.waker());
            state.taken.store(read, Ordering::Release);
            state.reader.wake();
        }
        taken
    }

    fn state(&self) -> Poll<io::Result<()>> {
        let state = &*self.0;
        if state.cut.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let ahead = state.read.load(Ordering::Acquire).saturating_sub(state.taken.load(Ordering::Acquire));
        if ahead < AHEAD || state.open.load(Ordering::Acquire) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_open(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        // Before the look, also where it is open: a cut must wake who waits for the broker's next word.
        self.0.reader.register(context.waker());
        let state = self.state();
        if state.is_pending() {
            self.0.taker.wake();
            // It may have been opened meanwhile.
            return self.state();
        }
        state
    }
}

/// Opens sockets behind a valve; in all else tokio's own reactor.
#[derive(Clone)]
pub(super) struct Dial {
    tokio: Tokio,
    valve: Valve,
}

impl Dial {
    /// Must be called within a tokio runtime.
    pub(super) fn behind(valve: Valve) -> Self {
        Self { tokio: Tokio::current(), valve }
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").finish_non_exhaustive()
    }
}

type Socket = <Tokio as Reactor>::TcpStream;

/// A socket that is read only while its valve is open.
pub(super) struct Valved {
    pub(super) socket: Socket,
    valve: Valve,
}

impl Reactor for Dial {
    type TcpStream = Valved;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.tokio.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl futures_util::Stream<Item = std::time::Instant> + Send + 'static {
        self.tokio.interval(time)
    }

    fn tcp_connect_addr(&self, address: SocketAddr) -> impl Future<Output = io::Result<Valved>> + Send + 'static {
        let (connecting, valve) = (self.tokio.tcp_connect_addr(address), self.valve.clone());
        async move { Ok(Valved { socket: connecting.await?, valve }) }
    }
}

impl Valved {
    fn poll_counted(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        read: impl FnOnce(Pin<&mut Socket>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Self { socket, valve } = self.get_mut();
        std::task::ready!(valve.poll_open(context))?;
        let done = read(Pin::new(socket), context);
        if let Poll::Ready(Ok(bytes)) = &done {
            valve.0.read.fetch_add(*bytes as u64, Ordering::AcqRel);
        }
        done
    }
}

impl AsyncRead for Valved {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_counted(context, |socket, context| socket.poll_read(context, into))
    }

    fn poll_read_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [io::IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        self.poll_counted(context, |socket, context| socket.poll_read_vectored(context, into))
    }
}

impl AsyncWrite for Valved {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, from)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener};

    use futures_util::FutureExt as _;

    use super::*;

    /// A socket behind the valve, and a peer that sends for ever.
    async fn flooded(valve: &Valve) -> Valved {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            while peer.write_all(&[0; 1 << 16]).is_ok() {}
        });
        Dial::behind(valve.clone()).tcp_connect_addr(address).await.unwrap()
    }

    async fn read(socket: &mut Valved, buffer: &mut [u8]) -> io::Result<u64> {
        std::future::poll_fn(|context| Pin::new(&mut *socket).poll_read(context, buffer)).await.map(|bytes| bytes as u64)
    }

    /// Reads as far as the valve lets it.
    async fn read_ahead(socket: &mut Valved, buffer: &mut [u8]) -> u64 {
        let mut ahead = 0;
        while ahead < AHEAD {
            ahead += read(socket, buffer).await.unwrap();
        }
        assert!(read(socket, buffer).now_or_never().is_none(), "it is open at {ahead} bytes");
        ahead
    }

    /// Looks for messages, and finds none or one.
    async fn look(valve: &Valve, found: bool) {
        std::future::poll_fn(|context| {
            let _ = valve.poll_taking(context, |_| if found { Poll::Ready(()) } else { Poll::Pending });
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn no_more_is_read_than_is_looked_at() {
        let (valve, mut buffer) = (Valve::default(), vec![0; 1 << 16]);
        let mut socket = flooded(&valve).await;
        for _ in 0..3 {
            let ahead = read_ahead(&mut socket, &mut buffer).await;
            assert!(ahead < AHEAD + (1 << 16));
            look(&valve, true).await;
            assert!(read(&mut socket, &mut buffer).now_or_never().is_none(), "there may be more that was not looked at");
            look(&valve, false).await;
        }
        read_ahead(&mut socket, &mut buffer).await;
        valve.stay_open();
        for _ in 0..1000 {
            read(&mut socket, &mut buffer).await.unwrap();
        }
        valve.cut();
        assert_eq!(read(&mut socket, &mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn who_takes_messages_is_woken_when_the_valve_closes_and_who_reads_when_it_opens() {
        let valve = Valve::default();
        let mut socket = flooded(&valve).await;
        let reading = tokio::spawn(async move {
            let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
            while total < 5 * AHEAD {
                total += read(&mut socket, &mut buffer).await.unwrap();
            }
        });
        // Finds nothing, ever; is polled again only when it is woken.
        let taking = tokio::spawn(async move { std::future::poll_fn(|context| valve.poll_taking(context, |_| Poll::<()>::Pending)).await });
        reading.await.unwrap();
        taking.abort();
    }
}
