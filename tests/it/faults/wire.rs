//! A proxy before a server that delays what it carries, drops connections, or falls silent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Carries everything.
    Pass,
    /// Holds each piece up for so long.
    Delay(Duration),
    /// Carries nothing and ends nothing: nobody is told.
    Silent,
    /// Ends the way to the server and keeps the way back.
    HalfClosed,
    /// Ends every connection and takes no new one.
    Cut,
}

/// A running proxy.
pub(crate) struct Wire {
    pub(crate) port: u16,
    /// The last one is that of new connections, the others those of lost ones.
    moods: Arc<Mutex<Vec<watch::Sender<Mood>>>>,
}

impl Wire {
    /// Starts a proxy before a port of this machine.
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let moods = Arc::new(Mutex::new(vec![watch::Sender::new(Mood::Pass)]));
        let shared = Arc::clone(&moods);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let moods = shared.lock().unwrap().last().unwrap().subscribe();
                if *moods.borrow() != Mood::Cut {
                    tokio::spawn(connection(client, to, moods));
                }
            }
        });
        Self { port, moods }
    }

    pub(crate) fn set(&self, mood: Mood) {
        let moods = self.moods.lock().unwrap();
        moods.last().unwrap().send_replace(mood);
    }

    /// Carries nothing more of the connections that there are, for ever, and ends none of them. New ones are carried.
    pub(crate) fn lose(&self) {
        self.set(Mood::Silent);
        let new = watch::Sender::new(Mood::Pass);
        self.moods.lock().unwrap().push(new);
    }
}

async fn connection(client: TcpStream, to: u16, mut moods: watch::Receiver<Mood>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let forth = carry(from_client, to_server, moods.clone(), true);
    let back = carry(from_server, to_client, moods.clone(), false);
    tokio::select! {
        () = async { tokio::join!(forth, back); } => {}
        _ = moods.wait_for(|mood| *mood == Mood::Cut) => {}
    }
}

/// Carries one way until it ends. A connection that breaks is for its ends to notice.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut moods: watch::Receiver<Mood>,
    is_forth: bool,
) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read,
            _ = moods.wait_for(|mood| is_forth && *mood == Mood::HalfClosed) => break,
        };
        let Ok(read @ 1..) = read else {
            break;
        };
        let mood = *moods.borrow();
        match mood {
            Mood::Pass | Mood::HalfClosed => {}
            Mood::Delay(time) => tokio::time::sleep(time).await,
            Mood::Silent | Mood::Cut => {
                if moods.wait_for(|mood| *mood != Mood::Silent).await.is_err() {
                    break;
                }
            }
        }
        if to.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
