//! Hears what other servers on the same database have changed, and has it looked at soon.
//!
//! Invariant: nothing depends on this loop; without it changes are found by asking, a little later.

use std::convert::Infallible;

use tokio::sync::broadcast::error::RecvError;

use super::loops::Ends;
use super::presence::Asked;
use super::wiring::{LoopSet, Wiring};
use crate::jobs;
use crate::metadata::{Database, Topic};
use crate::registry::Registry;
use crate::shutdown::Signal;
use crate::tenancy::{Credentials, Tenants};

/// Whoever looks.
struct Hearers {
    registry: Registry,
    jobs: jobs::Handle,
    credentials: Credentials,
    tenants: Tenants,
    asked: Asked,
}

/// Starts the loop, where several servers share the database.
pub(super) fn start(
    database: &Database,
    (wiring, credentials): (&Wiring, &Credentials),
    back: &mut LoopSet,
) {
    if database.is_exclusive() {
        return;
    }
    let hearers = Hearers {
        registry: wiring.registry.clone(),
        jobs: wiring.jobs.clone(),
        credentials: credentials.clone(),
        tenants: wiring.tenants.clone(),
        asked: wiring.asked.clone(),
    };
    let hints = follow(database.clone(), hearers, back.signal.clone());
    back.loops.spawn("the hints", Ends::Itself, hints);
}

impl Hearers {
    fn look(&self, topic: Topic) {
        match topic {
            Topic::Jobs => self.jobs.look(),
            Topic::Tasks => self.registry.look(),
            Topic::Access => {
                self.credentials.look();
                self.tenants.look();
            }
            Topic::Replicas => self.asked.look(),
        }
    }
}

/// Sends and hears hints until the drain.
async fn follow(database: Database, hearers: Hearers, drain: Signal) -> Result<(), Infallible> {
    let Some(mut heard) = database.heard() else {
        return Ok(());
    };
    let exchange = database.exchange_hints();
    tokio::pin!(exchange);
    loop {
        tokio::select! {
            () = drain.draining() => return Ok(()),
            () = &mut exchange => return Ok(()),
            topic = heard.recv() => match topic {
                Ok(topic) => hearers.look(topic),
                Err(RecvError::Lagged(_)) => Topic::ALL.into_iter().for_each(|topic| hearers.look(topic)),
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }
}
