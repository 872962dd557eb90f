//! Real sockets against a listener with small limits.

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::rpc::stack::budget;
use crate::rpc::standing::{SIP, SLOW};
use crate::shutdown;

/// A preface and an empty SETTINGS frame.
const SPOKEN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

struct Bed {
    address: std::net::SocketAddr,
    metrics: Metrics,
    drain: shutdown::Drain,
    cut: shutdown::Drain,
}

/// A listener whose connections are read to their end.
async fn bed(connections: usize, handshake: Duration) -> Bed {
    let (metrics, budget) = (Metrics::new(), Budget::new(&budget::Limits::default()));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let ((drain, drained), (cut, cuts)) = (shutdown::channel(), shutdown::channel());
    let limits = Limits {
        connections,
        handshake,
    };
    let ends = Ends {
        drain: drained,
        cut: cuts,
    };
    let listener = Listener::new(socket, limits, budget, metrics.clone(), ends);
    tokio::spawn(listener.into_stream().for_each(|connection| async {
        let Ok(mut connection) = connection;
        tokio::spawn(async move {
            let mut all = Vec::new();
            let _ = connection.read_to_end(&mut all).await;
        });
    }));
    Bed {
        address,
        metrics,
        drain,
        cut,
    }
}

impl Bed {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    fn has(&self, line: &str) -> bool {
        self.metrics.text().contains(line)
    }
}

/// Waits until the other side has closed.
async fn closed(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(PATIENCE, stream.read(&mut byte)).await.unwrap();
    // Bytes that nobody read make the end a reset.
    assert_eq!(read.unwrap_or(0), 0);
}

async fn is_open(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    timeout(Duration::from_millis(50), stream.read(&mut byte))
        .await
        .is_err()
}

#[tokio::test]
async fn silent_and_half_spoken_connections_are_closed_in_time() {
    let bed = bed(10, Duration::from_millis(100)).await;
    for part in [0, 10, 24, SPOKEN.len() - 1] {
        let mut stream = bed.connect().await;
        stream.write_all(&SPOKEN[..part]).await.unwrap();
        closed(&mut stream).await;
    }
    let silent = "connections_ended_total{reason=\"silent\"} 4";
    assert!(bed.has(silent), "{}", bed.metrics.text());
    let mut stream = bed.connect().await;
    stream.write_all(SPOKEN).await.unwrap();
    let mut late = bed.connect().await;
    closed(&mut late).await;
    assert!(is_open(&mut stream).await, "it has spoken");
}

#[tokio::test]
async fn a_connection_above_the_budget_is_closed_at_once_and_room_comes_back() {
    let bed = bed(2, PATIENCE).await;
    let mut first = bed.connect().await;
    let mut second = bed.connect().await;
    // Connections are taken in turn, so the third comes after the two.
    let mut third = bed.connect().await;
    closed(&mut third).await;
    assert!(bed.has("connections_ended_total{reason=\"refused\"} 1"));
    assert!(is_open(&mut first).await && is_open(&mut second).await);
    drop(first);
    let again = async {
        loop {
            let mut stream = bed.connect().await;
            if is_open(&mut stream).await {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn a_drain_ends_connections_that_have_not_spoken_and_the_cut_all() {
    let bed = bed(10, PATIENCE).await;
    let mut silent = bed.connect().await;
    let mut spoken = bed.connect().await;
    spoken.write_all(SPOKEN).await.unwrap();
    assert!(is_open(&mut spoken).await);
    bed.drain.start();
    closed(&mut silent).await;
    assert!(is_open(&mut spoken).await);
    bed.cut.start();
    closed(&mut spoken).await;
}

#[tokio::test]
async fn a_caller_who_still_reads_an_answer_gets_all_of_it_before_the_cut() {
    let Spoken {
        mut client,
        connection,
        cut,
        _drain,
        ..
    } = spoken().await;
    let (mut read, mut write) = tokio::io::split(connection);
    let reading = tokio::spawn(async move { read.read_to_end(&mut Vec::new()).await });
    cut.start();
    // Longer, all in all, than a silent connection lingers.
    let mut pace = tokio::time::interval(LINGER / 8);
    for part in 0..16 {
        pace.tick().await;
        assert!(!reading.is_finished(), "cut before part {part}");
        write.write_all(&[part; 1000]).await.unwrap();
    }
    reading.await.unwrap().unwrap();
    drop(write);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.len(), 16_000);
}

/// A connection that has spoken, with its client.
struct Spoken {
    client: TcpStream,
    connection: Connection,
    metrics: Metrics,
    _drain: shutdown::Drain,
    cut: shutdown::Drain,
}

/// The one connection of a listener, whose first bytes are read.
async fn spoken() -> Spoken {
    let (metrics, budget) = (Metrics::new(), Budget::new(&budget::Limits::default()));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let ((_drain, drain), (cut, cuts)) = (shutdown::channel(), shutdown::channel());
    let limits = Limits {
        connections: 1,
        handshake: PATIENCE,
    };
    let ends = Ends { drain, cut: cuts };
    let listener = Listener::new(socket, limits, budget, metrics.clone(), ends);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(SPOKEN).await.unwrap();
    let mut connections = Box::pin(listener.into_stream());
    let Some(Ok(mut connection)) = connections.next().await else {
        panic!("a connection");
    };
    let mut hello = vec![0; SPOKEN.len()];
    connection.read_exact(&mut hello).await.unwrap();
    Spoken {
        client,
        connection,
        metrics,
        _drain,
        cut,
    }
}

/// A connection on which so many credentials were refused that it is read slowly, and that its client has sent some more to.
async fn slow() -> Spoken {
    let mut spoken = spoken().await;
    let standing = spoken.connection.peer.standing();
    (0..100).for_each(|_| standing.refused(true));
    spoken.client.write_all(&[7; 8 * SIP]).await.unwrap();
    spoken
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_bad_credentials_alone_is_read_in_small_parts_with_pauses() {
    let mut slow = slow().await;
    let connection = &mut slow.connection;
    let standing = connection.peer.standing().clone();
    let mut bytes = [0; 8 * SIP];
    for least in [Duration::from_secs(2), Duration::from_millis(250)] {
        let begun = Instant::now();
        let read = connection.read(&mut bytes).await.unwrap();
        assert!((1..=SIP).contains(&read), "{read}");
        assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
        standing.refused(true);
    }
    connection.read_exact(&mut bytes[..SIP]).await.unwrap();
    // Without a refusal meanwhile there is more at a time, and soon.
    let begun = Instant::now();
    assert!(connection.read(&mut bytes).await.unwrap() > SIP);
    assert!(begun.elapsed() < Duration::from_millis(100));
    standing.refused(true);
    let before = Instant::now();
    let mut waiting = Box::pin(connection.read(&mut bytes));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    standing.proven();
    assert!(waiting.await.unwrap() > SIP, "all that is there");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_pauses_is_cut_as_soon_as_any_other() {
    let mut slow = slow().await;
    let mut bytes = [0; SIP];
    let mut waiting = Box::pin(slow.connection.read(&mut bytes));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let begun = Instant::now();
    slow.cut.start();
    assert_eq!(waiting.await.unwrap(), 0);
    let took = begun.elapsed();
    assert!(took <= LINGER + Duration::from_millis(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_slow_is_ended() {
    let mut slow = slow().await;
    tokio::time::advance(SLOW).await;
    assert_eq!(slow.connection.read(&mut [0; SIP]).await.unwrap(), 0);
    let text = slow.metrics.text();
    let ended = "connections_ended_total{reason=\"unproven\"} 1";
    assert!(text.contains(ended), "{text}");
    assert!(text.contains("slow_connections 1"));
    drop(slow.connection);
    assert!(slow.metrics.text().contains("slow_connections 0"));
}

#[tokio::test]
async fn a_process_without_descriptors_pauses_longer_each_time() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ((_drain, drain), (_cut, cut)) = (shutdown::channel(), shutdown::channel());
    let limits = Limits {
        connections: 1,
        handshake: PATIENCE,
    };
    let budget = Budget::new(&budget::Limits::default());
    let ends = Ends { drain, cut };
    let mut listener = Listener::new(socket, limits, budget, Metrics::new(), ends);
    for number in [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOBUFS,
        rustix::io::Errno::NOMEM,
    ] {
        let error = io::Error::from_raw_os_error(number.raw_os_error());
        let first = listener.failed(&error).unwrap();
        assert!(listener.failed(&error).unwrap() > first);
        for _ in 0..10 {
            assert!(listener.failed(&error).unwrap() <= LONGEST_PAUSE);
        }
        listener.pause = FIRST_PAUSE;
    }
    let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
    assert_eq!(listener.failed(&aborted), None);
    assert!(listener.metrics.text().contains("accept_pauses_total 48"));
}

#[test]
fn the_head_of_a_request_of_http1_is_over_after_an_empty_line_where_it_is_spoken() {
    let head = b"POST /x HTTP/1.1\r\nhost: a\r\r\n\r\n";
    for piece in [1, 3, 1000] {
        for speaks_http1 in [true, false] {
            let mut progress = Progress {
                speaks_http1,
                ..Progress::default()
            };
            let mut pieces = head.chunks(piece).peekable();
            while let Some(bytes) = pieces.next() {
                let is_over = progress.take(bytes);
                assert_eq!(is_over, speaks_http1 && pieces.peek().is_none());
            }
        }
    }
    // HTTP/2 has an empty line in its preface.
    let mut progress = Progress {
        speaks_http1: true,
        ..Progress::default()
    };
    assert!(!progress.take(&SPOKEN[..SPOKEN.len() - 1]));
    assert!(progress.take(&SPOKEN[SPOKEN.len() - 1..]));
}

#[test]
fn a_settings_frame_is_over_after_its_payload() {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\x01\x02\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(&[7; 258]);
    for piece in [1, 5, 1000] {
        let mut progress = Progress::default();
        let mut pieces = bytes.chunks(piece).peekable();
        while let Some(bytes) = pieces.next() {
            assert_eq!(progress.take(bytes), pieces.peek().is_none());
        }
    }
}
