//! Hints among servers by NOTIFY and LISTEN.
//!
//! Invariant: a hint is sent on its own, after the transaction that it is about, since one inside would hold a lock of the whole server until that has
//! committed; whoever has begun to listen is told of everything once, since hints may have been lost before. A connection that has died without a word is
//! noticed: one that is silent is asked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::{Notify, broadcast};

use super::super::super::{Error, ServerConfig, Topic};
use super::pools::Pools;

/// The channel of all servers.
const CHANNEL: &str = "frameshift";
/// The shortest time between two hints of one process: what comes meanwhile is one hint.
const PAUSE: Duration = Duration::from_millis(20);
/// The time between two tries to listen.
const RETRY: Duration = Duration::from_secs(5);
/// Hints that wait for whoever hears them. A hearer that misses some looks at everything.
const HEARD: usize = 64;

/// Hints of one process. Clones share them.
#[derive(Debug, Clone)]
pub(in super::super) struct Hints {
    /// Whether any are sent and heard.
    is_on: bool,
    /// How long a connection may be silent before it is asked whether it is still there.
    silence: Duration,
    /// How long it has to answer.
    patience: Duration,
    /// A bit for each topic that is still to be told.
    pending: Arc<AtomicU8>,
    any: Arc<Notify>,
    heard: broadcast::Sender<Topic>,
}

impl Hints {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            is_on: config.hints,
            silence: config.hint_silence,
            patience: config.connect_timeout,
            pending: Arc::default(),
            any: Arc::default(),
            heard: broadcast::Sender::new(HEARD),
        }
    }

    /// Tells the others soon.
    pub(in super::super) fn tell(&self, topic: Topic) {
        self.pending.fetch_or(bit(topic), Ordering::SeqCst);
        self.any.notify_one();
    }

    /// What others tell, this process included.
    pub(in super::super) fn heard(&self) -> broadcast::Receiver<Topic> {
        self.heard.subscribe()
    }

    /// Sends and receives for as long as this is polled.
    pub(super) async fn exchange(&self, pools: &Pools) {
        if !self.is_on {
            std::future::pending::<()>().await;
        }
        tokio::join!(self.send(pools), self.receive(pools.listening()));
    }

    async fn send(&self, pools: &Pools) {
        loop {
            self.any.notified().await;
            let pending = self.pending.swap(0, Ordering::SeqCst);
            let topics = Topic::ALL.into_iter();
            for topic in topics.filter(|topic| pending & bit(*topic) != 0) {
                // One message to the server, which prepares nothing: a pooler passes it on as it is.
                let notify = format!("SELECT pg_notify('{CHANNEL}', '{}')", topic.name());
                let notify = sqlx::raw_sql(AssertSqlSafe(notify));
                let sent = async {
                    let (mut conn, _turn) = pools.acquire().await?;
                    notify.execute(&mut *conn).await?;
                    Ok::<_, Error>(())
                };
                // A server that died without a word would keep the connection from all others.
                let sent = tokio::time::timeout(self.patience, sent).await;
                let lost = sent
                    .map_err(|late| Error::Unavailable(late.into()))
                    .flatten();
                if let Err(error) = lost {
                    tracing::debug!(%error, "a hint is lost; others find the change by asking");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn receive(&self, pool: &PgPool) {
        let mut is_told = false;
        loop {
            if let Err(error) = self.listen(pool, &mut is_told).await {
                // Once for each time that nothing is heard.
                match std::mem::replace(&mut is_told, true) {
                    false => {
                        tracing::warn!(%error, "no hints are heard; changes are found by asking")
                    }
                    true => tracing::debug!(%error, "no hints are heard"),
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Listens until the connection is lost. Whether people were told that nothing is heard is over once it does.
    async fn listen(&self, pool: &PgPool, is_told: &mut bool) -> sqlx::Result<()> {
        let own = Alone::like(pool);
        // Boxed, since opening and asking a connection takes many kilobytes of a future.
        let hearing = Box::pin(self.hear(&own.0, is_told));
        pool.close_event().do_until(hearing).await?
    }

    async fn hear(&self, pool: &PgPool, is_told: &mut bool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(pool).await?;
        // The next listener tells everybody that hints may have been lost.
        listener.eager_reconnect(false);
        self.answered(listener.listen(CHANNEL)).await?;
        *is_told = false;
        for topic in Topic::ALL {
            // Nobody may be there to hear it.
            let _ = self.heard.send(topic);
        }
        loop {
            let hint = match tokio::time::timeout(self.silence, listener.try_recv()).await {
                Ok(hint) => hint?,
                Err(_) => {
                    let asked = sqlx::raw_sql("SELECT 1").execute(&mut listener);
                    self.answered(asked).await?;
                    continue;
                }
            };
            let Some(hint) = hint else {
                return Ok(());
            };
            if let Some(topic) = Topic::named(hint.payload()) {
                let _ = self.heard.send(topic);
            }
        }
    }

    /// What a connection answers in time. The system itself notices only after many minutes that nobody is there any more.
    async fn answered<T>(&self, asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the connection is silent");
        let answered = tokio::time::timeout(self.patience, asked).await;
        answered.map_err(late)?
    }
}

/// A pool for one listener. A connection that has died without a word says goodbye into the void until the system gives it up, and would keep the place of the
/// next one in a pool that both shared.
struct Alone(PgPool);

impl Alone {
    fn like(pool: &PgPool) -> Self {
        let options = pool.connect_options().as_ref().clone();
        Self(pool.options().clone().connect_lazy_with(options))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // Its connection ends once the listener gives it back, which need not be waited for.
        drop(self.0.close());
    }
}

fn bit(topic: Topic) -> u8 {
    match topic {
        Topic::Jobs => 1,
        Topic::Tasks => 2,
        Topic::Access => 4,
        Topic::Replicas => 8,
    }
}
