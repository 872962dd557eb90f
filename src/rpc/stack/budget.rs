//! What all calls together may hold: bytes of messages on their way in, and a tenant's client streams.
//!
//! Invariant: a message's bytes are drawn, whole, before the first of them is buffered, so that no two messages wait for each other's second half; a
//! client that stops in the middle gives its bytes back after a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use tonic::body::Body;

use super::metered::{Held, Metered, Patience};
use super::{Concern, Inner, answer};
use crate::ids::TenantId;
use crate::metadata::AtOnce;
use crate::rpc::methods::{self, Kind};
use crate::rpc::pool::Pool;
use crate::rpc::standing::Standing;
use crate::rpc::{MESSAGE_BYTES, status};
use crate::shutdown::Signal;
use crate::telemetry::Metrics;
use crate::tenancy::Caller;
use crate::tenancy::tls::Certificate;

/// Limits of what calls hold, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of messages on their way in, of all calls.
    pub message_memory: u64,
    /// Most memory of uploads, spooled files and imports.
    pub upload_memory: u64,
    /// Most disk space of files that belong to requests.
    pub spool_bytes: u64,
    /// Most client streams of one tenant, live ones aside.
    pub streams_per_tenant: usize,
    /// Most live streams of one tenant.
    pub live_streams_per_tenant: usize,
    /// Most memory of the live streams of all tenants.
    pub live_memory: u64,
    /// Time after which a client that sends nothing loses its call.
    pub idle: Duration,
    /// Time of a unary call whose caller sets no deadline, and that one message of a stream may take to come.
    pub call: Duration,
    /// Time that a call waits for the bytes of a message.
    pub patience: Duration,
    /// Time that an upload or an import waits for its memory: its client is held back meanwhile.
    pub upload_patience: Duration,
    /// Time after which a client that sends nothing loses its call while the server drains.
    pub idle_draining: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_memory: 16 * MESSAGE_BYTES as u64,
            upload_memory: 512 << 20,
            spool_bytes: 4 << 30,
            streams_per_tenant: 64,
            live_streams_per_tenant: 32,
            live_memory: 512 << 20,
            idle: Duration::from_secs(30),
            call: Duration::from_secs(120),
            patience: Duration::from_secs(2),
            upload_patience: Duration::from_secs(10),
            idle_draining: Duration::from_secs(1),
        }
    }
}

/// Most bytes that one message draws: it is held as it came, and decompressed.
const LARGEST: u64 = 2 * MESSAGE_BYTES as u64;

/// The method whose streams last as long as their callers like, and are counted by themselves.
const LIVE: &str = "/frameshift.v1.ClassificationService/ClassifyFrames";

/// Use of a client stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// A stream that sends something that ends.
    Upload,
    /// A live stream.
    Live,
}

impl Use {
    fn of(path: &str) -> Self {
        match path {
            LIVE => Self::Live,
            _ => Self::Upload,
        }
    }

    /// Returns the setting that limits streams of this use, and the limit: the tenant's own, else the setting's value.
    fn limit(self, limits: &Limits, own: AtOnce) -> (&'static str, usize) {
        let (setting, own, all) = match self {
            Self::Upload => ("streams_per_tenant", own.streams, limits.streams_per_tenant),
            Self::Live => (
                "live_streams_per_tenant",
                own.live_streams,
                limits.live_streams_per_tenant,
            ),
        };
        let own = own.map(|own| usize::try_from(own).unwrap_or(usize::MAX));
        (setting, own.unwrap_or(all))
    }
}

/// What all calls share.
#[derive(Debug, Clone)]
pub(in crate::rpc) struct Budget {
    limits: Limits,
    messages: Pool,
    streams: Arc<Mutex<Streams>>,
}

/// Streams that are open, of each tenant and use.
type Streams = HashMap<(TenantId, Use), usize>;

/// What the calls of one connection share.
#[derive(Debug, Clone)]
pub(in crate::rpc) struct Peer {
    messages: Pool,
    address: Option<IpAddr>,
    certificate: Option<Arc<Certificate>>,
    standing: Standing,
}

impl Peer {
    /// The same peer with the certificate that the client has shown in the handshake.
    pub(in crate::rpc) fn showing(mut self, certificate: Option<Certificate>) -> Self {
        self.certificate = certificate.map(Arc::new);
        self
    }

    /// The certificate that the client has shown in the handshake.
    pub(in crate::rpc) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// What the callers of the connection have shown.
    pub(in crate::rpc) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The address at the other end of the connection: the client's, or its proxy's.
    pub(in crate::rpc) fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl Budget {
    pub(in crate::rpc) fn new(limits: &Limits) -> Self {
        let messages = limits.message_memory.max(LARGEST);
        Self {
            limits: limits.clone(),
            messages: Pool::new("message_memory", messages, limits.patience),
            streams: Arc::default(),
        }
    }

    /// A connection's own share: a quarter of all, so that one cannot take everything, and never less than the largest message.
    pub(in crate::rpc) fn peer(&self, address: Option<IpAddr>, metrics: Metrics) -> Peer {
        let bytes = (self.messages.bytes() / 4).max(LARGEST);
        Peer {
            messages: Pool::new("message_memory", bytes, self.limits.patience),
            address,
            certificate: None,
            standing: Standing::new(metrics),
        }
    }

    /// Returns the bytes of messages that are drawn now.
    #[cfg(test)]
    pub(super) fn message_bytes(&self) -> u64 {
        self.messages.used()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among the tenant's streams of one use, of which it may have so many; else the number that it has.
    fn stream(&self, owner: (TenantId, Use), limit: usize) -> Result<Place, usize> {
        let mut streams = self.lock();
        let held = streams.get(&owner).copied().unwrap_or(0);
        if held >= limit {
            return Err(held);
        }
        streams.insert(owner.clone(), held + 1);
        Ok(Place {
            budget: self.clone(),
            owner,
        })
    }
}

/// A place among a tenant's streams of one use; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    budget: Budget,
    owner: (TenantId, Use),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.budget.lock();
        match streams.get_mut(&self.owner) {
            Some(held) if *held > 1 => *held -= 1,
            // Without an entry a tenant costs nothing.
            Some(_) | None => drop(streams.remove(&self.owner)),
        }
    }
}

/// Holds every call to the budget.
#[derive(Debug, Clone)]
pub(super) struct Budgeted {
    budget: Budget,
    drain: Signal,
}

impl Budgeted {
    pub(super) fn new(budget: Budget, drain: Signal) -> Self {
        Self { budget, drain }
    }
}

impl Concern for Budgeted {
    async fn around<S: Inner>(&self, request: Request<Body>, next: S) -> Response<Body> {
        let limits = &self.budget.limits;
        let is_stream = methods::kind(request.uri().path()) == Kind::ClientStream;
        let place = if is_stream {
            // Reflection belongs to no tenant; its streams count as the default one's.
            let caller = request.extensions().get::<Caller>();
            let tenant = caller.and_then(|caller| caller.tenant.clone());
            let tenant = tenant.unwrap_or_else(TenantId::anonymous);
            let of = Use::of(request.uri().path());
            let own = request.extensions().get::<AtOnce>();
            let (setting, limit) = of.limit(limits, own.copied().unwrap_or_default());
            match self.budget.stream((tenant, of), limit) {
                Ok(place) => Some(place),
                Err(held) => return status::too_many_streams(setting, (limit, held)).into_http(),
            }
        } else {
            None
        };
        let peer = request.extensions().get::<Peer>().cloned();
        let pools = peer
            .map(|peer| peer.messages)
            .into_iter()
            .chain([self.budget.messages.clone()]);
        // A unary handler has its message until it answers; a stream's message is done with when the next one is asked for.
        let held = Held::new(!is_stream);
        let patience = Patience {
            idle: limits.idle,
            message: limits.call,
            idle_draining: limits.idle_draining,
            drain: self.drain.clone(),
        };
        let encoding = super::metered::Encoding::of(request.headers());
        let request = request.map(|body| {
            let metered = Metered::new(body, pools.collect(), held.clone(), patience);
            Body::new(metered.encoded(encoding).placed(place))
        });
        let response = answer(next, request).await;
        held.give_back();
        response
    }
}

#[cfg(test)]
mod tests;
