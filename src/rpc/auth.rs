//! Puts the caller into every request of the API, and refuses whoever may not call the method. Calls of the health service have no caller.
//!
//! Invariant: nothing of a request but its path and its headers is looked at before its credential and scope were accepted; every refused credential
//! gets one answer, whatever is wrong with it. Handlers never see a credential.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use secrecy::{ExposeSecret, SecretString};
use tonic::Status;
use tonic::body::Body;

use super::scopes::{self, Need};
use super::stack::budget::Peer;
use super::stack::counted::{Counted, Way};
use super::stack::{Concern, Inner, answer, request_id};
use super::{Reflection, methods, status};
use crate::ids::{KeyId, TaskId, TenantId};
use crate::metadata::{Acting, Actor, RefusedRecord};
use crate::telemetry::metrics::{self, Metrics};
use crate::tenancy::admin::Call;
use crate::tenancy::credentials::Turned;
use crate::tenancy::proxies::{FORWARDED, Proxies};
use crate::tenancy::tls::Certificate;
use crate::tenancy::{
    self, Caller, Credentials, HEADER, Presented, Principal, Proven, Refusals, Refused, Source,
    Tenants, Underway,
};

const BEARER: &str = "bearer";

/// Caller of a request, for its metrics and log lines: set when it becomes known, read when the request ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<OnceLock<Who>>);

/// Who made a request.
#[derive(Debug)]
struct Who {
    caller: metrics::Caller,
    /// Caller and address, when the audit log records how the call ends.
    audited: Option<(Principal, Source)>,
}

impl Seen {
    fn say(&self, caller: metrics::Caller) {
        let audited = None;
        let _ = self.0.set(Who { caller, audited });
    }

    /// Returns the caller; nobody for a request that ended before its credential was checked.
    pub(super) fn caller(&self) -> metrics::Caller {
        let who = self.0.get();
        who.map_or(metrics::Caller::Nobody, |who| who.caller.clone())
    }

    /// Tells the audit log how a call ended, if it may have changed something for a caller who is known.
    pub(super) fn audit(&self, method: &'static str, code: &'static str) {
        let audited = self.0.get().and_then(|who| who.audited.as_ref());
        if let Some((principal, source)) = audited {
            tracing::info!(target: "audit", %principal, %source, method, code, "a call");
        }
    }
}

/// Address that a call came from: that of the connection, or what a trusted proxy says of it.
#[derive(Debug, Clone, Copy)]
struct Origin(IpAddr);

/// Identifies callers.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    credentials: Option<Credentials>,
    reflection: Reflection,
    proxies: Proxies,
    /// Whether every connection is one of a proxy.
    is_behind: bool,
    tenants: Option<Tenants>,
    refusals: Arc<Refusals>,
    denials: Arc<Refusals>,
    metrics: Metrics,
}

impl Concern for Callers {
    async fn around<S: Inner>(&self, mut request: Request<Body>, next: S) -> Response<Body> {
        let place = match self.admit(&mut request).await {
            Ok(place) => place,
            Err(status) => return status.into_http(),
        };
        let caller = request.extensions().get::<Caller>();
        let tenant = caller.and_then(|caller| caller.tenant.clone());
        let acting = self.acting(&request);
        let (Some(tenants), Some(tenant)) = (&self.tenants, &tenant) else {
            return on_behalf(acting, answer(next, request)).await;
        };
        let own = (tenants, tenant);
        request.extensions_mut().insert(tenants.at_once(tenant));
        let request = request.map(|body| Counted::body(body, Way::Received, own, None));
        let answered = on_behalf(acting, answer(next, request)).await;
        answered.map(|body| Counted::body(body, Way::Sent, own, place))
    }
}

/// Runs a call whose changes the audit log tells of, or another one.
async fn on_behalf<F: Future>(acting: Option<Acting>, call: F) -> F::Output {
    match acting {
        Some(acting) => acting.scope(call).await,
        None => call.await,
    }
}

impl Callers {
    /// Callers who prove who they are with credentials, or anonymous ones.
    pub(super) fn new(
        credentials: Option<Credentials>,
        reflection: Reflection,
        metrics: Metrics,
    ) -> Self {
        Self {
            credentials,
            reflection,
            proxies: Proxies::default(),
            is_behind: false,
            tenants: None,
            refusals: Arc::default(),
            denials: Arc::default(),
            metrics,
        }
    }

    /// The same behind proxies whose word counts for where callers are; `is_behind` says that nothing but proxies connects.
    pub(super) fn behind(mut self, proxies: Proxies, is_behind: bool) -> Self {
        self.proxies = proxies;
        self.is_behind = is_behind;
        self
    }

    /// The address that a request came from.
    fn origin(&self, request: &Request<Body>) -> Option<Origin> {
        let peer = request.extensions().get::<Peer>()?.address()?;
        let forwarded = request.headers().get_all(FORWARDED);
        let values: Vec<&[u8]> = forwarded.iter().map(HeaderValue::as_bytes).collect();
        Some(Origin(self.proxies.origin(peer, values.into_iter())))
    }

    /// The call of a request as the audit log has it, if its method may change something for a caller who is known.
    fn acting(&self, request: &Request<Body>) -> Option<Acting> {
        let path = request.uri().path();
        let is_audited = scopes::need(path).is_some_and(Need::is_audited);
        self.credentials.as_ref().filter(|_| is_audited)?;
        let extensions = request.extensions();
        let caller = extensions.get::<Caller>()?;
        let address = extensions.get::<Origin>().map(|origin| origin.0);
        let id = extensions.get::<request_id::Name>();
        Some(Acting {
            actor: Actor {
                principal: caller.principal.to_string(),
                source: address.map_or_else(String::new, |address| address.to_string()),
                request_id: id.map_or_else(String::new, |id| id.as_str().to_owned()),
            },
            method: methods::known(path)?.rsplit('/').next()?,
        })
    }

    /// The same callers, with the states and limits of their tenants.
    #[must_use]
    pub(super) fn of_tenants(mut self, tenants: Tenants) -> Self {
        self.tenants = Some(tenants);
        self
    }

    /// Puts the caller into the request, if it may call the method. Returns the call's place among those of its tenant.
    async fn admit(&self, request: &mut Request<Body>) -> Result<Option<Underway>, Status> {
        let headers = request.headers_mut();
        let presented = presented(headers);
        headers.remove(AUTHORIZATION);
        let path = request.uri().path();
        let known = methods::known(path);
        let need = scopes::need(path);
        let is_open = match need {
            Some(Need::Nothing) => true,
            Some(Need::Reflection) => self.reflection != Reflection::Authenticated,
            Some(Need::AnyOf(_) | Need::OnTasks) => false,
            // Without authentication a method that does not exist is no secret.
            None => self.credentials.is_none() && !knows_tenants(path),
        };
        if is_open {
            return Ok(None);
        }
        let seen = request
            .extensions()
            .get::<Seen>()
            .cloned()
            .unwrap_or_default();
        let origin = self.origin(request);
        let source = origin.map_or(Source::Others, |origin| Source::of(origin.0));
        let peer = request.extensions().get::<Peer>().cloned();
        let tenants = request.headers().get_all(HEADER);
        let tenants = tenants.iter().map(|value| value.as_bytes());
        let caller = match &self.credentials {
            Some(credentials) => {
                let certificate = peer.as_ref().and_then(Peer::certificate);
                let proven = prove(credentials, presented, certificate, source).await;
                let proven = proven.map_err(|refused| {
                    self.slow_down(peer.as_ref(), &refused.1);
                    self.refused(refused, source, known, &seen)
                })?;
                credentials.caller(proven, tenants).await
            }
            None => tenancy::identify(tenants).map_err(Turned::Tenant),
        };
        // A wrong tenant is found only once the credential was accepted.
        if let (Some(peer), Ok(_) | Err(Turned::Tenant(_))) = (&peer, &caller) {
            peer.standing().proven();
        }
        let caller = caller.map_err(|turned| match turned {
            Turned::Tenant(error) => {
                seen.say(metrics::Caller::Malformed);
                status::of_tenancy(&error)
            }
            Turned::Refused(refused) => {
                self.slow_down(peer.as_ref(), &refused);
                self.refused((None, refused), source, known, &seen)
            }
        })?;
        let is_audited = self.credentials.is_some() && need.is_some_and(Need::is_audited);
        let who = Who {
            caller: match &caller.tenant {
                Some(tenant) => metrics::Caller::Tenant(tenant.clone()),
                None => metrics::Caller::Operator,
            },
            audited: is_audited.then(|| (caller.principal.clone(), source)),
        };
        let _ = seen.0.set(who);
        tracing::Span::current().record("tenant", tracing::field::display(seen.caller()));
        if let Err(status) = may_call(&caller, need, known) {
            self.denied(&caller, source, known);
            return Err(status);
        }
        let mut place = None;
        if let (Some(tenants), Some(tenant)) = (&self.tenants, &caller.tenant) {
            let admitted = tenants.admit(tenant, self.credentials.is_some());
            place = Some(admitted.map_err(status::of_denied)?);
        }
        let extensions = request.extensions_mut();
        extensions.insert(caller);
        if let Some(origin) = origin {
            extensions.insert(origin);
        }
        Ok(place)
    }

    /// Counts a refused credential and writes the reason to the audit log. Returns the status for the caller.
    fn refused(
        &self,
        (key, refused): (Option<KeyId>, Refused),
        source: Source,
        method: Option<&'static str>,
        seen: &Seen,
    ) -> Status {
        seen.say(metrics::Caller::Unproven);
        self.metrics.credential_refused(refused.label());
        if let Some(silent) = self.refusals.count(source) {
            if let Some(credentials) = self.credentials.as_ref().filter(|_| refused.is_wrong()) {
                let key = key
                    .as_ref()
                    .map_or_else(String::new, |key| format!(" key={key}"));
                credentials.refusal(RefusedRecord {
                    source: source.to_string(),
                    called: method.unwrap_or_default().to_owned(),
                    detail: format!("reason={}{key} not_told={silent}", refused.label()),
                });
            }
            let key = key.as_ref().map(tracing::field::display);
            tracing::warn!(
                target: "audit",
                reason = refused.label(), key, %source, method, not_told = silent,
                "a credential was refused"
            );
        }
        status::of_credential(refused)
    }

    /// Notes a refused credential of a connection, unless the server is at fault, or the connection is a proxy's, which has calls of many callers.
    fn slow_down(&self, peer: Option<&Peer>, refused: &Refused) {
        let is_ours = matches!(refused, Refused::IssuerAway | Refused::Unavailable(_));
        if is_ours || self.is_behind {
            return;
        }
        let is_proxy = |peer: &&Peer| peer.address().is_some_and(|own| self.proxies.has(own));
        if let Some(peer) = peer.filter(|peer| !is_proxy(peer)) {
            let is_crowded = matches!(refused, Refused::Crowded);
            peer.standing().refused(is_crowded);
        }
    }

    /// Tells the audit log of a caller that asked for more than it may.
    fn denied(&self, caller: &Caller, source: Source, method: Option<&'static str>) {
        if let Some(silent) = self.denials.count(source) {
            tracing::warn!(
                target: "audit",
                principal = %caller.principal, scopes = %caller.scopes, %source, method, not_told = silent,
                "a call was denied"
            );
        }
    }
}

/// Refuses a caller without the scope of a method, and a key for certain tasks on a method that does not look at tasks.
fn may_call(
    caller: &Caller,
    need: Option<Need>,
    known: Option<&'static str>,
) -> Result<(), Status> {
    let Some(need) = need else {
        return match known {
            Some(method) => Err(status::method_denied(method)),
            // The router says that there is no such method.
            None => Ok(()),
        };
    };
    if !need.scopes().meets(caller.scopes) {
        return Err(status::scope_missing(need.scopes()));
    }
    if caller.tasks.is_some() && !matches!(need, Need::OnTasks | Need::Reflection) {
        let is_info = known.is_some_and(|method| method.ends_with("/GetServerInfo"));
        if !is_info {
            return Err(status::method_denied(known.unwrap_or_default()));
        }
    }
    Ok(())
}

/// Who a request's caller is proven to be.
async fn prove(
    credentials: &Credentials,
    bearer: Result<Option<SecretString>, Refused>,
    certificate: Option<&Certificate>,
    source: Source,
) -> Result<Proven, (Option<KeyId>, Refused)> {
    let bearer = bearer.map_err(|refused| (None, refused))?;
    let presented = Presented {
        bearer: bearer.as_ref().map(ExposeSecret::expose_secret),
        certificate,
        source,
    };
    credentials.prove(presented).await
}

/// The bearer's credential of a request, if there is one.
fn presented(headers: &HeaderMap) -> Result<Option<SecretString>, Refused> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refused::Several);
    }
    let text = value.to_str().map_err(|_| Refused::Malformed)?;
    let (scheme, credential) = text.split_once(' ').ok_or(Refused::Malformed)?;
    if !scheme.eq_ignore_ascii_case(BEARER) {
        return Err(Refused::Malformed);
    }
    // A comma is in no key; it is how a proxy joins repeated headers.
    match credential.contains(',') {
        true => Err(Refused::Several),
        false => Ok(Some(credential.trim().into())),
    }
}

/// Feeds a stranger's bytes to the reader of the header; for fuzzing.
#[cfg(any(fuzzing, test))]
pub fn fuzz(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(AUTHORIZATION, value);
        }
    }
    if let Ok(Some(bearer)) = presented(&headers) {
        assert!(!bearer.expose_secret().contains(','), "one credential");
        assert_eq!(headers.len(), 1, "a repeated header is refused");
    }
}

/// Whether the method of a path is the API's own, whose requests have a tenant.
pub(super) fn knows_tenants(path: &str) -> bool {
    path.starts_with("/frameshift.")
}

/// The caller of a request that came through the stack.
pub(super) fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>();
    caller
        .cloned()
        .ok_or_else(|| status::internal("a request without a caller"))
}

/// An administrator's call that came through the stack.
pub(super) fn call<T>(request: &tonic::Request<T>) -> Result<Call, Status> {
    let extensions = request.extensions();
    let address = extensions.get::<Origin>().map(|origin| origin.0);
    let id = extensions.get::<request_id::Name>();
    Ok(Call {
        caller: caller(request)?,
        source: address.map_or_else(String::new, |address| address.to_string()),
        request_id: id.map_or_else(String::new, |id| id.as_str().to_owned()),
    })
}

/// The tenant of a request that came through the stack.
pub(super) fn tenant<T>(request: &tonic::Request<T>) -> Result<TenantId, Status> {
    let caller = request.extensions().get::<Caller>();
    caller
        .and_then(|caller| caller.tenant.clone())
        .ok_or_else(|| status::internal("a request without a tenant"))
}

/// Tasks that the caller of a request may classify with.
#[derive(Debug, Clone)]
pub(super) struct Allowed(Option<Arc<BTreeSet<TaskId>>>);

impl Allowed {
    /// Returns the credentials of a request's caller.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        let caller = request.extensions().get::<Caller>();
        Self(caller.and_then(|caller| caller.tasks.clone()))
    }

    /// Refuses a task that the caller may not use, whether it exists or not; `None` stands for the backbone, which is of no task.
    pub(super) fn check(&self, task: Option<&TaskId>) -> Result<(), Status> {
        match (&self.0, task) {
            (None, _) => Ok(()),
            (Some(tasks), Some(task)) if tasks.contains(task) => Ok(()),
            (Some(_), task) => Err(status::task_denied(task)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        match presented(&headers) {
            Ok(Some(bearer)) => Ok(bearer.expose_secret().to_owned()),
            Ok(None) => Err("missing"),
            Err(refused) => Err(refused.label()),
        }
    }

    #[test]
    fn one_bearers_credential_is_read_and_nothing_else() {
        for good in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(read(&[good]), Ok("abc".to_owned()), "{good}");
        }
        assert_eq!(read(&[]), Err("missing"));
        for bad in ["abc", "Basic abc", "Bearerabc", "", "Bearer\tabc"] {
            assert_eq!(read(&[bad]), Err("malformed"), "{bad}");
        }
        assert_eq!(read(&["Bearer a", "Bearer a"]), Err("several"));
        assert_eq!(read(&["Bearer a, Bearer b"]), Err("several"));
    }

    proptest! {
        #![proptest_config(crate::inputs())]

        #[test]
        fn strangers_headers_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn headers_that_look_like_credentials_are_read_without_a_panic(text in "(?i)(bearer|basic)?[ \t,]{0,3}[\\PC\n]{0,80}") {
            fuzz(text.as_bytes());
        }
    }
}
