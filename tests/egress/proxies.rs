//! Egress proxies on 127.0.0.1: HTTP CONNECT and SOCKS5, which lead every name to this machine and can refuse.

#![allow(dead_code, unreachable_pub, reason = "each test file compiles this module for itself and uses a part of it")]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// How a proxy behaves.
#[derive(Clone, Copy)]
pub enum Manner {
    /// CONNECT: leads to 127.0.0.1, at the port that is asked for.
    Connect,
    /// CONNECT: answers this instead and closes.
    Say(&'static str),
    /// SOCKS5 without credentials: leads to 127.0.0.1, at the port that is asked for.
    Socks,
    /// SOCKS5: leads there whoever gives this user and password.
    SocksFor(&'static str, &'static str),
    /// SOCKS5: replies this code.
    SocksReply(u8),
    /// Takes connections and never says a word.
    Silent,
}

pub struct EgressProxy {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl EgressProxy {
    pub async fn start(manner: Manner) -> Self {
        Self::start_on(0, manner).await
    }

    pub async fn start_on(port: u16, manner: Manner) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&proxy.asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(manner, stream, Arc::clone(&asked)));
            }
        });
        proxy
    }

    /// What was asked of it: the head of each CONNECT, or `host:port` of each SOCKS request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(manner: Manner, mut stream: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let note = |text: String| asked.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    match manner {
        Manner::Silent => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
        }
        Manner::Connect | Manner::Say(_) => {
            let head = read_head(&mut stream).await?;
            note(head.clone());
            if let Manner::Say(answer) = manner {
                stream.write_all(answer.as_bytes()).await?;
                return stream.shutdown().await;
            }
            let port = head.split(' ').nth(1).and_then(|target| target.rsplit_once(':')?.1.parse().ok()).unwrap();
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            lead_on(stream, port).await?;
        }
        Manner::Socks | Manner::SocksFor(..) | Manner::SocksReply(_) => {
            if let Some((target, port)) = socks(manner, &mut stream).await? {
                note(format!("{target}:{port}"));
                let code = if let Manner::SocksReply(code) = manner { code } else { 0 };
                stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
                if code == 0 {
                    lead_on(stream, port).await?;
                }
            }
        }
    }
    Ok(())
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// The target that is asked for (RFC 1928); `None` for who is not let in (RFC 1929).
async fn socks(manner: Manner, stream: &mut TcpStream) -> io::Result<Option<(String, u16)>> {
    assert_eq!(stream.read_u8().await?, 5);
    read_counted(stream).await?;
    if let Manner::SocksFor(user, word) = manner {
        stream.write_all(&[5, 2]).await?;
        assert_eq!(stream.read_u8().await?, 1);
        let given = (read_counted(stream).await?, read_counted(stream).await?);
        let right = given == (user.into(), word.into());
        stream.write_all(&[1, u8::from(!right)]).await?;
        if !right {
            return Ok(None);
        }
    } else {
        stream.write_all(&[5, 0]).await?;
    }
    let mut request = [0; 4];
    stream.read_exact(&mut request).await?;
    let host = match request[3] {
        1 => std::net::Ipv4Addr::from_bits(stream.read_u32().await?).to_string(),
        4 => std::net::Ipv6Addr::from_bits(stream.read_u128().await?).to_string(),
        _ => String::from_utf8(read_counted(stream).await?).unwrap(),
    };
    Ok(Some((host, stream.read_u16().await?)))
}

async fn read_counted(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn lead_on(mut stream: TcpStream, port: u16) -> io::Result<()> {
    let mut target = TcpStream::connect(("127.0.0.1", port)).await?;
    copy_bidirectional(&mut stream, &mut target).await.map(drop)
}
