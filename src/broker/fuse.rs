//! Ends a connection that is still being made when nobody waits for it any more.
//!
//! The client library makes a connection on a thread of its own and waits there without limit: a broker, or a balancer in
//! front of it, that takes connections and says nothing would cost a thread and a socket at every try.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Cuts the socket when it is dropped, unless the connection was made.
#[derive(Debug, Default)]
pub(super) struct Fuse(Arc<Mutex<State>>);

/// The end of a fuse that is given to who opens the socket.
#[derive(Debug, Clone)]
pub(super) struct Wire(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NoSocketYet,
    Socket(TcpStream),
    Blown,
}

impl Fuse {
    pub(super) fn wire(&self) -> Wire {
        Wire(Arc::clone(&self.0))
    }

    /// The connection is made: from now on its owner ends it.
    pub(super) fn remove(self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::NoSocketYet;
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), State::Blown);
        if let State::Socket(socket) = state {
            // Fails only where it is shut already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Wire {
    /// Puts a socket behind the fuse.
    ///
    /// # Errors
    /// When the fuse has blown already, or there are no file descriptors left.
    pub(super) fn protect(&self, socket: &impl AsFd) -> std::io::Result<()> {
        let socket = TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Blown) {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        *state = State::Socket(socket);
        Ok(())
    }
}
