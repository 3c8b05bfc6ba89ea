//! Whoever started the process and wants to be told how it is, by the protocol of sd_notify(3): systemd, and others that speak it.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::config::Environment;

/// The one who is told. Cheap to tell nothing: without `NOTIFY_SOCKET` in the environment there is nobody.
#[derive(Debug, Default)]
pub struct Supervisor {
    line: Option<(UnixDatagram, SocketAddr)>,
    patience: Option<Duration>,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Work has begun, or goes on after a reload; health is asked for at this address.
    Ready(Option<std::net::SocketAddr>),
    /// The integrators are being read again.
    Reloading,
    /// The end has begun: what is in flight is finished.
    Stopping,
    /// The process is not stuck.
    Alive,
}

impl State {
    fn message(&self) -> String {
        match self {
            Self::Ready(None) => "READY=1".to_owned(),
            Self::Ready(Some(address)) => format!("READY=1\nSTATUS=whether it is well: http://{address}/readyz"),
            Self::Reloading => "RELOADING=1\nSTATUS=reading the integrators again".to_owned(),
            Self::Stopping => "STOPPING=1\nSTATUS=finishing what is in flight".to_owned(),
            Self::Alive => "WATCHDOG=1".to_owned(),
        }
    }
}

impl Supervisor {
    /// The one that the environment names, and how long it may hear nothing (`WATCHDOG_USEC`, where meant for this process).
    ///
    /// # Errors
    /// When there is one and no socket to it can be made: it would take the process for one that never starts.
    pub fn of(environment: &Environment) -> io::Result<Self> {
        let Some(name) = environment.get("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(Self::default()) };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(OsStr::from_bytes(name.as_bytes()))?,
        };
        let socket = UnixDatagram::unbound()?;
        // Who does not listen must not hold us up.
        socket.set_nonblocking(true)?;
        let number = |name| environment.get(name).and_then(|text| text.parse::<u64>().ok());
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0).map(Duration::from_micros);
        Ok(Self { line: Some((socket, address)), patience })
    }

    /// Tells it. What it does not take is lost: it acts on silence by itself, and the process can do nothing about it.
    pub fn tell(&self, state: &State) {
        if let Some((socket, address)) = &self.line {
            let _ = socket.send_to_addr(state.message().as_bytes(), address);
        }
    }

    /// Says again and again, for ever, that the process is not stuck; twice as often as it has to. Says nothing where nobody waits
    /// for it. Runs among all other work, so that it stops when that does.
    pub async fn keep_alive(&self) {
        let Some(patience) = self.patience else { return };
        loop {
            self.tell(&State::Alive);
            tokio::time::sleep(patience / 2).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_both_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("callbackd-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        for (listener, name) in [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{abstract_name}"))] {
            let supervisor = Supervisor::of(&environment(&[("NOTIFY_SOCKET", &name)])).unwrap();
            supervisor.tell(&State::Ready(Some("127.0.0.1:9464".parse().unwrap())));
            assert_eq!(heard(&listener), "READY=1\nSTATUS=whether it is well: http://127.0.0.1:9464/readyz");
            supervisor.tell(&State::Stopping);
            assert!(heard(&listener).starts_with("STOPPING=1\n"));
        }
    }

    #[test]
    fn who_is_not_there_or_does_not_listen_costs_nothing() {
        Supervisor::of(&environment(&[])).unwrap().tell(&State::Stopping);
        Supervisor::of(&environment(&[("NOTIFY_SOCKET", "")])).unwrap().tell(&State::Stopping);
        Supervisor::of(&environment(&[("NOTIFY_SOCKET", "/nowhere/notify")])).unwrap().tell(&State::Stopping);
        assert!(Supervisor::of(&environment(&[("NOTIFY_SOCKET", &"x".repeat(200))])).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let deaf = UnixDatagram::bind(&path).unwrap();
        let supervisor = Supervisor::of(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())])).unwrap();
        // Far more than a socket keeps.
        (0..100_000).for_each(|_| supervisor.tell(&State::Alive));
        assert_eq!(heard(&deaf), "WATCHDOG=1");
    }

    #[test]
    fn a_watchdog_counts_where_it_is_meant_for_this_process() {
        let own = std::process::id().to_string();
        let patience = |variables: &[(&str, &str)]| {
            let all = [&[("NOTIFY_SOCKET", "/x")], variables].concat();
            Supervisor::of(&environment(&all)).unwrap().patience
        };
        let half = Some(Duration::from_millis(500));
        assert_eq!(patience(&[("WATCHDOG_USEC", "500000")]), half);
        assert_eq!(patience(&[("WATCHDOG_USEC", "500000"), ("WATCHDOG_PID", &own)]), half);
        assert_eq!(patience(&[("WATCHDOG_USEC", "500000"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(patience(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(patience(&[("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(patience(&[]), None);
    }
}
