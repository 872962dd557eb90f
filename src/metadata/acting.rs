//! The call on whose behalf records are changed, so that the audit log tells of the change in its transaction.
//!
//! Invariant: a change outside of a call, as jobs and the janitor make them, has no call and no event. A future that is handed to another worker keeps the
//! call of the one that made it only by [`carried`].

use std::sync::Arc;

use super::Actor;

tokio::task_local! {
    /// The call whose future runs.
    static CURRENT: Arc<Acting>;
}

/// A call whose changes the audit log tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acting {
    /// Author of the changes.
    pub actor: Actor,
    /// Method that is called, as the API names it, for example `CreateTask`.
    pub method: &'static str,
}

impl Acting {
    /// Runs a future on behalf of this call.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(Arc::new(self), future).await
    }
}

/// Returns the call on whose behalf the running future changes records; `None` outside of one.
pub(super) fn current() -> Option<Arc<Acting>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Returns a future that runs on behalf of the call that makes it, wherever it is polled.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let call = current();
    async move {
        match call {
            Some(call) => CURRENT.scope(call, future).await,
            None => future.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Acting {
        Acting {
            actor: Actor {
                principal: "keys/k".into(),
                source: "10.0.0.1".into(),
                request_id: "r".into(),
            },
            method: "CreateTask",
        }
    }

    #[tokio::test]
    async fn a_call_is_known_to_what_runs_on_its_behalf_and_to_nothing_else() {
        assert_eq!(current(), None);
        let (own, spawned, carried) = call()
            .scope(async {
                let own = current();
                let spawned = tokio::spawn(async { current() }).await.unwrap();
                let carried = tokio::spawn(carried(async { current() })).await.unwrap();
                (own, spawned, carried)
            })
            .await;
        assert_eq!(own.as_deref(), Some(&call()));
        assert_eq!(spawned, None);
        assert_eq!(carried.as_deref(), Some(&call()));
        assert_eq!(
            tokio::spawn(super::carried(async { current() }))
                .await
                .unwrap(),
            None
        );
    }
}
