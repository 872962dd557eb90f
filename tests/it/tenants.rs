//! What the server keeps for tenants: limits of a second, counts of what they used, shares by weight, and their end.

mod erasure;
mod limits;
mod meters;
mod quotas;
mod usage;
mod weights;

use std::path::Path;
use std::time::Duration;

use frameshift::client::Client;
use frameshift::metadata::Actor;
use frameshift::proto::v1;
use frameshift::spec::{Scope, Scopes};
use futures::future::join_all;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::access::Guarded;
use crate::rpc_classify::counted;
use crate::rpc_frames::{Live, by_frames, header, jpeg};
use crate::server::{classify, refused, trained, until};

/// A server whose callers prove who they are, a client of `acme` that may do everything, and one of the operator.
pub(crate) struct Bed {
    pub(crate) guarded: Guarded,
    pub(crate) acme: Client,
    pub(crate) operator: Client,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::of(Guarded::start().await).await
    }

    /// The same on a directory of the test's own.
    pub(crate) async fn start_in(folder: &Path) -> Self {
        Self::of(Guarded::start_in(folder).await).await
    }

    async fn of(guarded: Guarded) -> Self {
        let own = guarded.key(Scopes::TENANT).await;
        let operator = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
        Self {
            acme: guarded.client(&own).await,
            operator: guarded.admin(&operator).await,
            guarded,
        }
    }

    /// Changes some fields of `acme`.
    async fn change(&self, fields: &[&str], tenant: v1::Tenant) -> Result<v1::Tenant, Status> {
        let request = v1::UpdateTenantRequest {
            tenant: Some(v1::Tenant {
                name: "tenants/acme".into(),
                ..tenant
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: fields.iter().map(|field| (*field).into()).collect(),
            }),
        };
        let changed = self.operator.admin().update_tenant(request).await;
        changed.map(tonic::Response::into_inner)
    }

    async fn limit(&self, clip_frames: Option<i64>, requests: Option<i64>) {
        self.set(v1::Quotas {
            clip_frames_per_second: clip_frames,
            requests_per_second: requests,
            ..Default::default()
        })
        .await;
    }

    /// Gives `acme` these quotas and no others.
    async fn set(&self, quotas: v1::Quotas) {
        let tenant = v1::Tenant {
            quotas: Some(quotas),
            ..Default::default()
        };
        let changed = self.change(&["quotas"], tenant).await.unwrap();
        assert_eq!(changed.quotas, Some(quotas));
    }

    /// What operators see of `acme`.
    async fn shown(&self) -> v1::Tenant {
        let show = v1::GetTenantRequest {
            name: "tenants/acme".into(),
        };
        let shown = self.operator.admin().get_tenant(show).await;
        shown.unwrap().into_inner()
    }

    async fn list(&self) -> Result<(), Status> {
        let list = v1::ListVideosRequest::default();
        self.acme.videos().list_videos(list).await.map(drop)
    }
}

/// Whether tests of tenants have their full forms.
pub(crate) fn is_full() -> bool {
    std::env::var("FRAMESHIFT_TENANTS").is_ok_and(|form| form == "full")
}

pub(crate) fn actor() -> Actor {
    Actor {
        principal: "test".into(),
        source: String::new(),
        request_id: String::new(),
    }
}

/// The quota, its limit and the delay that a refusal names.
fn told(status: &Status) -> (String, String, Option<Duration>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    let value = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
    let violations = &details.quota_failure().unwrap().violations;
    assert_eq!(violations[0].subject, value("quota"));
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    (value("quota"), value("limit"), delay)
}

#[tokio::test(flavor = "multi_thread")]
async fn clip_frames_beyond_a_tenants_limit_of_a_second_are_refused_with_a_delay() {
    let bed = Bed::start().await;
    let videos = trained(&bed.acme, "motion").await;
    let ask = async || {
        let request = classify("motion", &videos[0].name);
        bed.acme.classification().classify(request).await
    };
    ask().await.unwrap();
    // A clip has two frames: the second one is paid back for more than a second.
    bed.limit(Some(1), None).await;
    // At once, so that no time passes in which the first is paid back, however slow the machine is.
    let answers = join_all((0..8).map(|_| ask())).await;
    assert!(answers.iter().any(Result::is_ok));
    let status = answers.into_iter().find_map(Result::err);
    let status = status.expect("one is refused");
    refused(
        Err::<(), _>(status.clone()),
        Code::ResourceExhausted,
        "RATE_EXCEEDED",
    );
    let (quota, limit, delay) = told(&status);
    assert_eq!(
        (quota.as_str(), limit.as_str()),
        ("clip_frames_per_second", "1")
    );
    let delay = delay.expect("a delay");
    assert!(
        delay > Duration::ZERO && delay <= Duration::from_secs(2),
        "{delay:?}"
    );
    // Another call is not of this kind.
    bed.list().await.unwrap();
    // Whoever waits as told is served, when nobody else asks.
    if let Err(status) = ask().await {
        tokio::time::sleep(told(&status).2.expect("a delay")).await;
        ask().await.unwrap();
    }
    bed.limit(Some(0), None).await;
    let status = ask().await.unwrap_err();
    assert_eq!(
        told(&status),
        ("clip_frames_per_second".into(), "0".into(), None)
    );
    bed.limit(None, None).await;
    for _ in 0..3 {
        ask().await.unwrap();
    }
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_a_live_stream_beyond_the_limit_are_left_out_and_counted_as_such() {
    let bed = Bed::start().await;
    trained(&bed.acme, "motion").await;
    let header = v1::ClassifyFramesHeader {
        late_policy: v1::LatePolicy::DropOldest.into(),
        ..header("motion", by_frames(1, 1))
    };
    let mut live = Live::open(&bed.acme, header).await.unwrap();
    live.send(0, jpeg(0)).await;
    live.send(100, jpeg(1)).await;
    assert_eq!(live.window().await.number, 0);
    bed.limit(Some(0), None).await;
    live.send(200, jpeg(2)).await;
    let server = &bed.guarded.server;
    let left_out = |why| counted(server, &["frameshift_live_windows_total{", why]);
    until(|| async { left_out("\"rate_exceeded\"") == 1 }).await;
    assert_eq!(left_out("\"queue_full\""), 0);
    bed.limit(None, None).await;
    live.send(300, jpeg(3)).await;
    assert_eq!(live.window().await.number, 2);
    let counts = live.end().await.unwrap().counts;
    assert_eq!((counts.windows, counts.windows_skipped), (2, 1));
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_a_tenants_limit_of_a_second_are_refused_and_others_tenants_are_not() {
    let bed = Bed::start().await;
    bed.limit(None, Some(2)).await;
    let answers = join_all((0..8).map(|_| bed.list())).await;
    // Two come at once; how many more do depends on how slow the machine is.
    assert!(answers.iter().filter(|answer| answer.is_ok()).count() >= 2);
    let late = answers
        .into_iter()
        .find_map(Result::err)
        .expect("one is refused");
    let (quota, limit, delay) = told(&late);
    assert_eq!(
        (quota.as_str(), limit.as_str()),
        ("requests_per_second", "2")
    );
    assert!(delay.is_some_and(|delay| delay <= Duration::from_secs(1)));
    bed.limit(None, Some(0)).await;
    refused(bed.list().await, Code::ResourceExhausted, "RATE_EXCEEDED");
    // Administration is not of the tenant's calls, and health needs no tenant.
    let show = v1::GetTenantRequest {
        name: "tenants/acme".into(),
    };
    bed.operator.admin().get_tenant(show).await.unwrap();
    assert!(
        frameshift::client::health::is_serving(&bed.acme)
            .await
            .unwrap()
    );
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_terms_are_checked_and_shown() {
    let bed = Bed::start().await;
    let tenant = v1::Tenant {
        weight: 7,
        retention: Some(v1::TenantRetention {
            videos: Some(prost_types::Duration {
                seconds: 86_400,
                nanos: 0,
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let changed = bed
        .change(&["weight", "retention"], tenant.clone())
        .await
        .unwrap();
    assert_eq!((changed.weight, changed.retention), (7, tenant.retention));
    for (weight, fits) in [(0, false), (1, true), (1000, true), (1001, false)] {
        let tenant = v1::Tenant {
            weight,
            ..Default::default()
        };
        let changed = bed.change(&["weight"], tenant).await;
        assert_eq!(changed.is_ok(), fits, "{weight}: {changed:?}");
    }
    for seconds in [-1, 0, 59] {
        let retention = Some(v1::TenantRetention {
            jobs: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        });
        let tenant = v1::Tenant {
            retention,
            ..Default::default()
        };
        let wrong = bed.change(&["retention"], tenant).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong:?}");
        assert!(
            wrong.message().starts_with("tenant.retention.jobs"),
            "{wrong:?}"
        );
    }
    let erasing = v1::Tenant {
        state: v1::TenantState::Erasing.into(),
        ..Default::default()
    };
    let wrong = bed.change(&["state"], erasing).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    bed.guarded.server.stop().await;
}
