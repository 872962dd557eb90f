//! `grpc.health.v1`: overall and for each service of the API, all alike.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthService, HealthServer};
use tonic_health::server::HealthReporter;

use super::methods;

/// What the server says of its health.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// NOT_SERVING for every service.
    pub async fn new() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
        };
        health.set(ServingStatus::NotServing).await;
        health
    }

    /// SERVING from now on: the backbone is loaded and warm.
    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// NOT_SERVING from now on: the server drains.
    pub async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        // The empty name is the whole server.
        for service in methods::services().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// The standard service that answers with it.
    pub(super) fn service(&self) -> HealthServer<impl HealthService + use<>> {
        let service =
            tonic_health::server::HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(service)
    }
}
