//! The servers and tenants that the gates are measured on.
//!
//! Invariant: a measurement begins when nothing of the one before is in flight, with the server's decoders beside the generator.

use bytes::Bytes;

use super::{Args, Pair};
use crate::proto::v1;
use crate::tools::bench_serve::affinity::Split;
use crate::tools::bench_serve::beside::{Swaps, Training};
use crate::tools::bench_serve::figures::{Figures, Quantiles};
use crate::tools::bench_serve::host::{Host, describe};
use crate::tools::bench_serve::load::{self, Clips, Lane, LoadFigures, Pacing, Span};
use crate::tools::bench_serve::material::{self, Sets, Tenant};
use crate::tools::bench_serve::{Error, Popularity};

/// Callers that keep a server busy: two full batches, so that one forms while the other runs.
pub(super) const BUSY: usize = 32;
/// Connections of a tenant.
const CONNECTIONS: usize = 2;
/// Width of the adapters: that of the demo.
const WIDTH: u32 = 48;

/// A server with room for all sets, two tenants that ask, and one for what goes on beside.
pub(super) struct Bed {
    pub(super) host: Host,
    pub(super) split: Option<Split>,
    pub(super) info: v1::ServerInfo,
    pub(super) backbone: v1::Backbone,
    pub(super) sets: Sets,
    pub(super) clips: Vec<Bytes>,
    /// The tenant with as many tasks as the gates want.
    pub(super) many: Tenant,
    /// A tenant with one task.
    pub(super) other: Tenant,
    /// The tenant that trains and swaps, once it has what it needs for that.
    beside: Option<Tenant>,
    /// Most clips a second, once they were measured.
    peak: Option<f64>,
    /// Time of a measurement of the peak.
    span: Span,
}

impl Bed {
    /// Starts a server and makes the tenants, each with a task and clips.
    ///
    /// # Errors
    /// When the server does not run or refuses.
    pub(super) async fn start(args: &Args, split: Option<Split>) -> Result<Self, Error> {
        let host = Host::start(split.clone(), &[]).await?;
        let (info, backbone) = describe(host.address()).await?;
        let sets = Sets::new(&backbone, WIDTH);
        let clips = material::clips(&[], args.seed)?;
        let many = tenant(&host, "bench-many", &sets, &clips, 1).await?;
        let other = tenant(&host, "bench-other", &sets, &clips, 1).await?;
        Ok(Self {
            host,
            split,
            info,
            backbone,
            sets,
            clips,
            many,
            other,
            beside: None,
            peak: None,
            span: args.span(0),
        })
    }

    /// How long a measurement without pairs lasts.
    pub(super) fn span(&self) -> Span {
        self.span
    }

    /// Imports until this many tasks serve, and sends each a request, so that all are resident.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn have(&mut self, tasks: usize) -> Result<(), Error> {
        self.many.import(&self.sets, tasks).await?;
        self.many.ask_all().await
    }

    /// Puts a new server in the place of this one and all that is on it.
    ///
    /// # Errors
    /// When the new server does not run or refuses, or the old one does not end.
    pub(super) async fn renew(&mut self, args: &Args) -> Result<(), Error> {
        let new = Self::start(args, self.split.clone()).await?;
        std::mem::replace(self, new).stop().await
    }

    /// Starts the server again with some arguments more.
    ///
    /// # Errors
    /// When it does not serve again.
    pub(super) async fn restart(&mut self, more: &[String]) -> Result<(), Error> {
        self.many.disconnect();
        self.other.disconnect();
        // It is made again when it is needed.
        self.beside = None;
        self.host.restart(more).await?;
        let address = self.host.address();
        self.many.reconnect(address, CONNECTIONS).await?;
        self.other.reconnect(address, CONNECTIONS).await
    }

    /// Puts load on the server.
    ///
    /// # Errors
    /// When a loop of the generator fails.
    pub(super) async fn load(&self, lanes: Vec<Lane>, span: Span) -> Result<LoadFigures, Error> {
        self.host.place_decoders();
        load::run(lanes, span).await
    }

    /// The most clips a second of one task; measured when it is asked for first.
    ///
    /// # Errors
    /// When the server answers nothing.
    pub(super) async fn peak(&mut self) -> Result<f64, Error> {
        if let Some(peak) = self.peak {
            return Ok(peak);
        }
        let lane = lane(&self.many, 1, Pacing::Closed(BUSY));
        let found = self.load(vec![lane], self.span).await?;
        let peak = found.all.clips_per_s;
        if peak <= 0.0 {
            return Err(Error::Incomplete {
                what: "an answer of a busy server",
            });
        }
        self.peak = Some(peak);
        Ok(peak)
    }

    /// The tenant that trains and swaps, with a data set and the tasks for both.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn beside(&mut self) -> Result<Tenant, Error> {
        if let Some(tenant) = &self.beside {
            return Ok(tenant.clone());
        }
        let mut made = tenant(&self.host, "bench-beside", &self.sets, &self.clips, 0).await?;
        Training::prepare(&mut made, &self.sets).await?;
        Swaps::prepare(&mut made, &self.sets).await?;
        Ok(self.beside.insert(made).clone())
    }

    /// Stops the server.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) async fn stop(self) -> Result<(), Error> {
        let Self {
            host,
            many,
            other,
            beside,
            ..
        } = self;
        // A server that drains waits for clients that stay.
        drop((many, other, beside));
        host.stop().await
    }
}

/// Connects a tenant to a server, with clips and this many tasks.
///
/// # Errors
/// When the server refuses.
pub(super) async fn tenant(
    host: &Host,
    name: &str,
    sets: &Sets,
    clips: &[Bytes],
    tasks: usize,
) -> Result<Tenant, Error> {
    let mut tenant = Tenant::connect(host.address(), name, CONNECTIONS).await?;
    tenant.upload(clips).await?;
    tenant.import(sets, tasks).await?;
    Ok(tenant)
}

/// A tenant's load on its first tasks.
pub(super) fn lane(tenant: &Tenant, tasks: usize, pacing: Pacing) -> Lane {
    Lane {
        name: tenant.name.clone(),
        clients: tenant.clients.clone(),
        tasks: tenant.tasks.iter().take(tasks).cloned().collect(),
        popularity: Popularity::Uniform,
        clips: Clips::Stored(tenant.videos.clone()),
        pacing,
    }
}

/// A quantile of the latencies of what was answered.
///
/// # Errors
/// When nothing was answered.
pub(super) fn latency(figures: &Figures, pick: fn(&Quantiles) -> f64) -> Result<f64, Error> {
    figures
        .latency_ms
        .as_ref()
        .map(pick)
        .ok_or(Error::Incomplete { what: "an answer" })
}

/// A pair of throughputs.
pub(super) fn throughputs(with: &LoadFigures, without: &LoadFigures) -> Pair {
    Pair {
        a: with.all.clips_per_s,
        b: without.all.clips_per_s,
        errors: with.all.errors + without.all.errors,
    }
}
