//! The loops of the server, and what the end of each means.
//!
//! Invariant: no loop ends unnoticed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

/// Consequence when a loop ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// The server drains, because it depends on the loop.
    Server,
    /// The end is logged, and the server continues.
    Itself,
}

/// End of a loop that the server depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Name of the loop.
    pub(super) what: &'static str,
    /// Reason why it ended.
    pub(super) why: String,
}

/// Loops that drain together.
#[derive(Debug)]
pub(super) struct Loops {
    set: JoinSet<&'static str>,
    running: Vec<&'static str>,
    /// First loop to end among those that the server depends on.
    fatal: watch::Sender<Option<Ended>>,
}

impl Loops {
    pub(super) fn new() -> Self {
        Self {
            set: JoinSet::new(),
            running: Vec::new(),
            fatal: watch::Sender::new(None),
        }
    }

    /// Starts a loop.
    pub(super) fn spawn<E: std::error::Error + Send + 'static>(
        &mut self,
        name: &'static str,
        ends: Ends,
        body: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.running.push(name);
        // A worker of its own turns a panic into an error of its join, so that the loop's name is not lost.
        let inner = tokio::spawn(body);
        let fatal = self.fatal.clone();
        self.set.spawn(async move {
            let why = match AbortOnDrop(inner).join().await {
                Ok(Ok(())) => {
                    tracing::debug!(name, "a loop has ended");
                    "it returned".to_owned()
                }
                Ok(Err(error)) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(name, error, "a loop has failed");
                    error.to_string()
                }
                Err(error) => {
                    tracing::error!(name, %error, "a loop has panicked");
                    error.to_string()
                }
            };
            if ends == Ends::Server {
                let ended = Ended { what: name, why };
                fatal.send_if_modified(|first| first.is_none() && first.replace(ended).is_none());
            }
            name
        });
    }

    /// Waits until a loop ends that the server depends on. The future does not borrow the loops, so that it can be awaited while they are still being
    /// started.
    pub(super) fn fatal(&self) -> impl Future<Output = Ended> + Send + use<> {
        let mut fatal = self.fatal.subscribe();
        async move {
            let ended = fatal.wait_for(Option::is_some).await;
            if let Some(ended) = ended.ok().and_then(|ended| ended.clone()) {
                return ended;
            }
            // The loops were dropped, so none of them can end any more.
            std::future::pending().await
        }
    }

    /// Waits at most `patience` until all loops have ended. Returns the names of those that have not; they are aborted when `self` is dropped.
    pub(super) async fn finish(&mut self, patience: Duration) -> Vec<&'static str> {
        let all = async {
            while let Some(ended) = self.set.join_next().await {
                if let Ok(name) = ended {
                    self.running.retain(|running| *running != name);
                }
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
        self.running.clone()
    }
}

/// Handle of a worker that is aborted when the handle is dropped.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, Result};

    #[tokio::test]
    async fn the_end_of_a_loop_that_the_server_needs_is_fatal() {
        let mut loops = Loops::new();
        loops.spawn("a", Ends::Itself, async { Err(Error::other("no")) });
        loops.spawn("b", Ends::Server, async { Ok::<(), Error>(()) });
        loops.spawn("c", Ends::Server, std::future::pending::<Result<()>>());
        let ended = Ended {
            what: "b",
            why: "it returned".into(),
        };
        assert_eq!(loops.fatal().await, ended);
        assert_eq!(
            loops.fatal().await,
            ended,
            "whoever asks later hears of the first"
        );
    }

    #[tokio::test]
    async fn a_panic_counts_as_an_end() {
        let mut loops = Loops::new();
        loops.spawn("a", Ends::Server, async {
            if true {
                panic!("as planned");
            }
            Ok::<(), Error>(())
        });
        let ended = loops.fatal().await;
        assert_eq!(ended.what, "a");
        assert!(ended.why.contains("as planned"), "{}", ended.why);
    }

    #[tokio::test]
    async fn the_reason_of_a_failure_is_told() {
        let mut loops = Loops::new();
        let fatal = loops.fatal();
        loops.spawn("a", Ends::Server, async { Err(Error::other("no room")) });
        assert_eq!(fatal.await.why, "no room");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_in_time_is_named() {
        let mut loops = Loops::new();
        loops.spawn("a", Ends::Server, async { Ok::<(), Error>(()) });
        loops.spawn("b", Ends::Server, std::future::pending::<Result<()>>());
        assert_eq!(loops.finish(Duration::from_secs(1)).await, ["b"]);
    }
}
