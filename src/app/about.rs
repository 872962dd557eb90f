//! Description of the running server, for people and for `GetServerInfo`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::bind::Listeners;
use super::budgets::Budgets;
use super::wiring::Wiring;
use crate::config::Config;
use crate::model;
use crate::rpc::About;
use crate::rpc::info::{Budget, Decided, Origin};

/// Values that `serve` prints at its start.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Address of the API; none when the process only trains.
    pub address: Option<SocketAddr>,
    /// Address of the metrics endpoint, if there is one.
    pub metrics: Option<SocketAddr>,
    /// Address of the administrators' API, if there is one.
    pub admin: Option<SocketAddr>,
    /// Ways in which callers prove who they are; empty when they are anonymous.
    pub authentication: Vec<&'static str>,
    /// Whether connections are encrypted.
    pub is_encrypted: bool,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Memory budgets.
    pub budgets: Budgets,
    /// Backbone, device and limits, as `GetServerInfo` reports them.
    pub about: About,
}

impl Summary {
    pub(super) fn new(
        config: &Config,
        listeners: &Listeners,
        about: &About,
        budgets: Budgets,
    ) -> Self {
        Self {
            address: listeners.address,
            metrics: listeners.metrics_address,
            admin: listeners.admin_address,
            authentication: config
                .tenancy
                .methods
                .iter()
                .map(|method| method.name())
                .collect(),
            is_encrypted: config.tls.is_some(),
            data_dir: config.data_dir.clone(),
            budgets,
            about: about.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.about;
        let callers = match self.authentication.as_slice() {
            [] => "callers are not authenticated".to_owned(),
            methods => format!("callers are authenticated by {}", methods.join(", ")),
        };
        let wire = if self.is_encrypted {
            "TLS"
        } else {
            "plain text"
        };
        match self.address {
            Some(address) => {
                let reach = if address.ip().is_loopback() {
                    "this machine only"
                } else {
                    "other machines, too"
                };
                writeln!(f, "address         {address} ({reach}; {wire}; {callers})")?;
            }
            None => writeln!(f, "address         none: this process only trains")?,
        }
        if let Some(admin) = self.admin {
            writeln!(f, "administration  {admin}")?;
        }
        match self.metrics {
            Some(address) => writeln!(f, "metrics         http://{address}/metrics")?,
            None => writeln!(f, "metrics         off")?,
        }
        writeln!(f, "data directory  {}", self.data_dir.display())?;
        writeln!(
            f,
            "backbone        {} ({}, sha256 {}, {:.1} M parameters, {} px)",
            about.backbone,
            about.origin.family,
            about.digest,
            about.parameters as f64 / 1e6,
            about.image_size,
        )?;
        for decided in &about.origin.decisions {
            writeln!(
                f,
                "  {:<13} {} ({})",
                decided.field, decided.value, decided.from
            )?;
        }
        writeln!(f, "device          {}, {}", about.device, about.precision)?;
        writeln!(f, "video worker    {}", about.isolation.join(", "))?;
        write!(f, "{}", self.budgets)
    }
}

/// Returns what `GetServerInfo` reports.
pub(super) fn of(config: &Config, wiring: &Wiring, budgets: &Budgets) -> About {
    let backbone = &wiring.backbone;
    let layers = wiring.decoder.isolation();
    let shape = backbone.config();
    let size = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    About {
        backbone: backbone.name().into(),
        digest: backbone.digest(),
        image_size: u16::try_from(shape.image_size).unwrap_or(u16::MAX),
        patch_size: size(shape.patch_size),
        width: size(shape.width),
        layers: size(shape.layers),
        heads: size(shape.heads),
        parameters: backbone.parameters(),
        mlp_width: size(shape.mlp_width),
        activation: shape.activation.name(),
        eps: shape.eps,
        origin: about_origin(backbone.origin()),
        normalization: shape.normalization,
        device: wiring.place.name(),
        precision: backbone.precision().to_string(),
        isolation: layers.iter().map(|layer| layer.name()).collect(),
        upload_bytes: config.upload_limit,
        queue_clips: config.engine.queue_clips,
        adapter_bytes: config.engine.residency_bytes,
        jobs_per_tenant: config.jobs.unfinished_per_tenant,
        budgets: budgets
            .parts
            .iter()
            .map(|part| Budget {
                part: part.what,
                settings: part.settings,
                bytes: part.bytes,
            })
            .collect(),
    }
}

fn about_origin(origin: &model::Origin) -> Origin {
    Origin {
        family: origin.family.clone(),
        format: origin.format.clone(),
        stored_as: origin.stored_as.clone(),
        decisions: origin
            .decisions
            .iter()
            .map(|decision| Decided {
                field: decision.field,
                value: decision.value.clone(),
                from: decision.from.clone(),
            })
            .collect(),
    }
}
