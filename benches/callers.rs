//! Benchmarks of what a call costs before its handler: proving a caller with a key, a token or a certificate that is known, and with ones that are not.
//!
//! The goal for one that is known is 20 µs: `cargo bench --bench callers`.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)] // A benchmark that cannot be set up ends.

#[path = "../tests/it/issuer.rs"]
#[allow(dead_code)]
mod issuer;

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use frameshift::metadata::{self, Database, MetadataStore};
use frameshift::spec::Scopes;
use frameshift::telemetry::metrics::Metrics;
use frameshift::tenancy::admin::{Call, KeyRequest};
use frameshift::tenancy::tls::Certificate;
use frameshift::tenancy::{
    Admin, Config, Credentials, Meter, Method, Presented, Source, Tenants, identities,
};
use issuer::{Issuer, Signer};
use jsonwebtoken::Algorithm;
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;

/// A bed of records, an issuer and rules.
struct Bed {
    credentials: Credentials,
    key: String,
    token: String,
    issuer: Issuer,
    signer: Signer,
    _folder: tempfile::TempDir,
}

async fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.sqlite");
    let records = Database::open(metadata::Config::at(path)).await.unwrap();
    let signer = Signer::new("own", Algorithm::RS256);
    let issuer = Issuer::start(&[&signer]).await;
    let rules = folder.path().join("identities.toml");
    let text = format!(
        "[[issuers]]\nurl = \"{}\"\naudiences = [\"frameshift\"]\n\
         [[issuers.rules]]\nsubject = \"bob\"\ntenant = \"acme\"\nrole = \"owner\"\n\
         [[certificates]]\nname = \"spiffe://td/*\"\ntenant = \"acme\"\nrole = \"owner\"\n",
        issuer.url
    );
    std::fs::write(&rules, text).unwrap();
    let config = Config {
        methods: Method::ALL.into(),
        identities: Some(identities::Config::new(rules)),
        attempts: NonZeroU32::MAX,
        ..Config::default()
    };
    let records: Arc<dyn MetadataStore> = Arc::new(records);
    let tenants = Tenants::new(Arc::clone(&records), Meter::default(), config.feed_poll);
    let credentials = Credentials::new(config, records, Metrics::new()).unwrap();
    let admin = Admin::new(credentials.clone(), tenants);
    let operator = Call::operator();
    let acme = "acme".parse().unwrap();
    admin.create_tenant(&operator, &acme, "").await.unwrap();
    let wanted = KeyRequest {
        tenant: Some(acme),
        display_name: String::new(),
        scopes: Scopes::TENANT,
        tasks: Default::default(),
        lifetime: None,
    };
    let (_, key) = admin.create_key(&operator, wanted).await.unwrap();
    Bed {
        credentials,
        key: key.reveal().expose_secret().to_owned(),
        token: signer.sign(&issuer.claims("bob"), |_| {}),
        issuer,
        signer,
        _folder: folder,
    }
}

impl Bed {
    async fn prove(&self, bearer: Option<&str>, certificate: Option<&Certificate>) {
        let presented = Presented {
            bearer,
            certificate,
            source: Source::Others,
        };
        let proven = self.credentials.prove(presented).await.unwrap();
        let caller = self.credentials.caller(proven, []).await.unwrap();
        black_box(caller);
    }
}

fn callers(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let bed = runtime.block_on(bed());
    let mut group = criterion.benchmark_group("callers");
    group.bench_function("known key", |bencher| {
        bencher.iter(|| runtime.block_on(bed.prove(Some(&bed.key), None)));
    });
    group.bench_function("known token", |bencher| {
        bencher.iter(|| runtime.block_on(bed.prove(Some(&bed.token), None)));
    });
    let certificate = Certificate {
        name: Some("spiffe://td/camera".into()),
        ends: i64::MAX,
    };
    group.bench_function("certificate", |bencher| {
        bencher.iter(|| runtime.block_on(bed.prove(None, Some(&certificate))));
    });
    // Each is another one, so that none is known.
    let mut number = 0;
    group.bench_function("new token, RS256", |bencher| {
        bencher.iter_batched(
            || {
                number += 1;
                let mut claims = bed.issuer.claims("bob");
                claims["number"] = number.into();
                bed.signer.sign(&claims, |_| {})
            },
            |token| runtime.block_on(bed.prove(Some(&token), None)),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, callers);
criterion_main!(benches);
