//! The API's listener: TLS, a budget of connections, a time limit until a connection speaks HTTP/2, and a pause when the process has no descriptors left.
//!
//! Invariant: a connection that does not speak is closed in time, a failing `accept` never spins, and every connection is gone soon after its last call
//! when the server drains. A connection that has shown bad credentials alone is read slowly, and ended after a minute.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::stack::budget::{Budget, Peer};
use crate::shutdown::Signal;
use crate::telemetry::metrics::{ConnectionEnd, Metrics};
use crate::tenancy::tls::{Certificate, Certificates};

mod handshakes;

use handshakes::{Encrypted, Handshakes};

/// Pause after the first failure of `accept`; it doubles up to [`LONGEST_PAUSE`] while failures follow one another.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Silence after which a connection whose calls are over is cut: the last answers have reached their caller.
const LINGER: Duration = Duration::from_millis(500);
/// Longest time for a caller who reads slowly to read the last answers.
const LONGEST_LINGER: Duration = Duration::from_secs(10);

/// Limits of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time; further ones are closed at once, so that their callers try another server.
    pub(super) connections: usize,
    /// Time from the beginning of a connection to the end of its first SETTINGS frame.
    pub(super) handshake: Duration,
}

/// Signals that end connections which would not end by themselves.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// Ends connections that have not spoken yet.
    pub(super) drain: Signal,
    /// Ends all connections.
    pub(super) cut: Signal,
}

/// Bound address, which accepts connections.
pub(super) struct Listener {
    listener: TcpListener,
    limits: Limits,
    room: Arc<Semaphore>,
    budget: Budget,
    metrics: Metrics,
    ends: Ends,
    pause: Duration,
    speaks_http1: bool,
    /// TLS handshakes under way; `None` where connections are in plain text.
    handshakes: Option<Handshakes>,
}

impl Listener {
    pub(super) fn new(
        listener: TcpListener,
        limits: Limits,
        budget: Budget,
        metrics: Metrics,
        ends: Ends,
    ) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(
                limits.connections.min(Semaphore::MAX_PERMITS),
            )),
            limits,
            budget,
            metrics,
            ends,
            pause: FIRST_PAUSE,
            speaks_http1: false,
            handshakes: None,
        }
    }

    /// Returns the listener for clients that may speak HTTP/1.1.
    pub(super) fn with_http1(mut self, speaks_http1: bool) -> Self {
        self.speaks_http1 = speaks_http1;
        self
    }

    /// Returns the listener with TLS.
    pub(super) fn encrypted(mut self, certificates: Option<Certificates>) -> Self {
        let (limit, metrics) = (self.limits.handshake, self.metrics.clone());
        self.handshakes =
            certificates.map(|certificates| Handshakes::new(certificates, limit, metrics));
        self
    }

    /// Returns the connections as they come.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Connection, Infallible>> {
        stream::unfold(self, |mut this| async move {
            let connection = this.next().await;
            Some((Ok(connection), this))
        })
    }

    async fn next(&mut self) -> Connection {
        loop {
            let done = async {
                match &mut self.handshakes {
                    Some(handshakes) => handshakes.next().await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Encrypted { stream, address, certificate } = done => {
                    let stream = Wire::Encrypted(stream);
                    if let Some(connection) = self.take(stream, address, certificate) {
                        return connection;
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, address)) => {
                    self.pause = FIRST_PAUSE;
                    // Answers are small: waiting for more to send would only delay them. The connection works without, too.
                    let _ = stream.set_nodelay(true);
                    let address = address.ip();
                    match &mut self.handshakes {
                        Some(handshakes) => handshakes.begin(stream, address),
                        None => {
                            if let Some(connection) = self.take(Wire::Plain(stream), address, None)
                            {
                                return connection;
                            }
                        }
                    }
                }
                Err(error) => {
                    if let Some(pause) = self.failed(&error) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Returns a connection when there is room for one more.
    fn take(
        &self,
        stream: Wire,
        address: IpAddr,
        certificate: Option<Certificate>,
    ) -> Option<Connection> {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.metrics.connection_ended(ConnectionEnd::Refused);
            return None;
        };
        self.metrics.connections(1);
        let (drain, cut) = (self.ends.drain.clone(), self.ends.cut.clone());
        Some(Connection {
            stream,
            opening: Some(Opening {
                progress: Progress {
                    speaks_http1: self.speaks_http1,
                    ..Progress::default()
                },
                deadline: Box::pin(tokio::time::sleep(self.limits.handshake)),
                drain: Box::pin(async move { drain.draining().await }),
            }),
            cut: Cut::Later(Box::pin(async move { cut.draining().await })),
            pause: None,
            peer: self
                .budget
                .peer(Some(address), self.metrics.clone())
                .showing(certificate),
            open: Open {
                metrics: self.metrics.clone(),
                _permit: permit,
            },
        })
    }

    /// Returns how long to wait after a failure of `accept`; a failure of the one connection needs no pause.
    fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
                | io::ErrorKind::TimedOut
        ) {
            return None;
        }
        // Anything else stays as it is until somebody closes a file or frees memory.
        if self.pause == FIRST_PAUSE {
            tracing::warn!(%error, "no new connections until there are descriptors or memory for them");
        }
        self.metrics.accept_paused();
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

/// A place among the connections.
struct Open {
    metrics: Metrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections(-1);
    }
}

type Event = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Transport of a connection's bytes.
enum Wire {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Wire {
    fn write_side(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Self::Plain(stream) => Pin::new(stream),
            Self::Encrypted(stream) => Pin::new(&mut **stream),
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Encrypted(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

/// A connection of the API.
pub(super) struct Connection {
    stream: Wire,
    /// Progress of the opening; `None` once the first SETTINGS frame is there.
    opening: Option<Opening>,
    cut: Cut,
    /// Pause of a connection that is read slowly.
    pause: Option<Pin<Box<Sleep>>>,
    peer: Peer,
    open: Open,
}

/// State of a connection's end by the server.
enum Cut {
    /// The connection ends when the server asks for it.
    Later(Event),
    /// The server has asked: the connection ends when nothing has been sent for a while, since the caller may still be reading an answer.
    Lingering {
        silence: Pin<Box<Sleep>>,
        latest: Instant,
    },
    /// The connection ends now.
    Due,
}

/// A connection that has not spoken HTTP/2 yet.
struct Opening {
    progress: Progress,
    deadline: Pin<Box<Sleep>>,
    drain: Event,
}

/// Count of the bytes of a client's preface and first SETTINGS frame that have come, or of the head of its first request where HTTP/1.1 is spoken, too; the
/// HTTP library checks their content.
#[derive(Debug, Default)]
struct Progress {
    seen: usize,
    /// Length of the first frame, as far as its bytes have come.
    length: usize,
    speaks_http1: bool,
    /// Whether what came is not HTTP/2.
    is_http1: bool,
    /// How much of the empty line after a head has come.
    ending: usize,
}

impl Progress {
    /// Bytes of the preface `PRI * HTTP/2.0 …`.
    const PREFACE: usize = 24;
    /// What no request of HTTP/1.1 begins with.
    const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// What ends the head of a request of HTTP/1.1.
    const END: &[u8] = b"\r\n\r\n";
    /// Bytes of a frame before its payload, of which the first three are the payload's length.
    const HEAD: usize = 9;

    /// Counts bytes. Returns whether all have come.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            let is_preface = Self::BEGIN.get(self.seen).is_none_or(|own| *own == byte);
            self.is_http1 |= self.speaks_http1 && !is_preface;
            if self.speaks_http1 {
                self.ending = match Self::END.get(self.ending) {
                    Some(own) if *own == byte => self.ending + 1,
                    Some(_) | None => usize::from(byte == b'\r'),
                };
            }
            if self.is_http1 {
                if self.ending == Self::END.len() {
                    return true;
                }
                continue;
            }
            if (Self::PREFACE..Self::PREFACE + 3).contains(&self.seen) {
                self.length = self.length << 8 | usize::from(byte);
            }
            self.seen += 1;
            if self.seen >= Self::PREFACE + Self::HEAD + self.length {
                return true;
            }
        }
        false
    }
}

impl Connection {
    /// Returns why the connection is to end now, if it is.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Option<ConnectionEnd> {
        if let Cut::Later(asked) = &mut self.cut
            && asked.as_mut().poll(cx).is_ready()
        {
            self.cut = Cut::Lingering {
                silence: Box::pin(tokio::time::sleep(LINGER)),
                latest: Instant::now() + LONGEST_LINGER,
            };
        }
        if let Cut::Lingering { silence, .. } = &mut self.cut
            && silence.as_mut().poll(cx).is_ready()
        {
            self.cut = Cut::Due;
            return Some(ConnectionEnd::Drained);
        }
        if self.peer.standing().is_over() {
            self.cut = Cut::Due;
            return Some(ConnectionEnd::Unproven);
        }
        let opening = self.opening.as_mut()?;
        if opening.drain.as_mut().poll(cx).is_ready() {
            self.cut = Cut::Due;
            return Some(ConnectionEnd::Drained);
        }
        if opening.deadline.as_mut().poll(cx).is_ready() {
            self.cut = Cut::Due;
            return Some(ConnectionEnd::Silent);
        }
        None
    }

    /// Waits until the connection is to be read: at once, but for callers that have shown bad credentials alone.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(until) = self.peer.standing().pause_of(cx.waker()) {
            let new = || Box::pin(tokio::time::sleep_until(until));
            let pause = self.pause.get_or_insert_with(new);
            if pause.deadline() != until {
                pause.as_mut().reset(until);
            }
            ready!(pause.as_mut().poll(cx));
        }
        self.pause = None;
        Poll::Ready(())
    }

    /// Reads bytes that have come; few at a time when the connection is read slowly.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let standing = self.peer.standing();
        let Some(most) = standing.most() else {
            return self.stream.poll_read(cx, buffer);
        };
        let most = most.min(buffer.remaining());
        let mut few = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(self.stream.poll_read(cx, &mut few))?;
        let read = few.filled().len();
        standing.read();
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }

    /// Puts the end off after bytes were sent.
    fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(1..)), Cut::Lingering { silence, latest }) = (written, &mut self.cut)
        {
            let end = (Instant::now() + LINGER).min(*latest);
            silence.as_mut().reset(end);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.cut, Cut::Due) {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = this.poll_end(cx) {
            this.open.metrics.connection_ended(end);
            // No bytes: as if the client had closed.
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_pause(cx));
        let before = buffer.filled().len();
        ready!(this.poll_bytes(cx, buffer))?;
        let new = buffer.filled().get(before..).unwrap_or_default();
        if let Some(opening) = &mut this.opening
            && opening.progress.take(new)
        {
            this.opening = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.write_side().poll_write(cx, bytes);
        self.sent(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.write_side().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.write_side().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream.write_side().poll_write_vectored(cx, slices);
        self.sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Encrypted(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

#[cfg(test)]
mod tests;
