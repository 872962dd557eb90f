//! `grpc.health.v1`: overall and for each service of the API, always the same, and separately whether changes are possible.

use std::sync::Arc;

use tokio::sync::Mutex;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthService, HealthServer};
use tonic_health::server::HealthReporter;

use super::methods;

/// Name under which the health of changes is reported. It is not a service of its own, since an orchestrator that takes a server out of rotation would end
/// classification, which goes on without writes, and would not mend a disk.
pub const WRITES: &str = "frameshift.v1.writes";

/// Health of the server, as `grpc.health.v1` reports it.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
    /// Held while the reporter is called, so that it gets the changes in their order.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    serves: bool,
    writes: bool,
}

impl Health {
    /// Reports NOT_SERVING for every service.
    pub async fn new() -> Self {
        let state = State {
            serves: false,
            writes: true,
        };
        let health = Self {
            reporter: HealthReporter::new(),
            state: Arc::new(Mutex::new(state)),
        };
        health.change(|_| {}).await;
        health
    }

    /// Reports SERVING from now on: the backbone is loaded and warm.
    pub async fn serving(&self) {
        self.change(|state| state.serves = true).await;
    }

    /// Reports NOT_SERVING from now on: the server drains.
    pub async fn not_serving(&self) {
        self.change(|state| state.serves = false).await;
    }

    /// Reports whether the database takes writes.
    pub async fn writes(&self, work: bool) {
        self.change(|state| state.writes = work).await;
    }

    async fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().await;
        change(&mut state);
        let all = status(state.serves);
        // The empty name is the whole server.
        for service in methods::services().chain([""]) {
            self.reporter.set_service_status(service, all).await;
        }
        let writes = status(state.serves && state.writes);
        self.reporter.set_service_status(WRITES, writes).await;
    }

    /// Returns the standard service that answers with this health.
    pub(super) fn service(&self) -> HealthServer<impl HealthService + use<>> {
        let service =
            tonic_health::server::HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(service)
    }
}

fn status(is_well: bool) -> ServingStatus {
    if is_well {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
