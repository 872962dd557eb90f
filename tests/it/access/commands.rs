//! `frameshift keys` and `frameshift tenants` against a server.

use frameshift::spec::{Scope, Scopes};

use super::Guarded;
use crate::reports::command::{Ran, output, program, word};

/// Runs a command against both addresses of a server, with the key of a file.
async fn ask(guarded: &Guarded, key_file: &std::path::Path, words: &[&str]) -> Ran {
    let (own, admin) = (
        guarded.server.address.to_string(),
        guarded.admin.to_string(),
    );
    let mut command = program();
    command
        .env("FRAMESHIFT_SERVER", own)
        .env("FRAMESHIFT_ADMIN_SERVER", admin)
        .env("FRAMESHIFT_API_KEY_FILE", key_file)
        .args(words);
    output(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_a_tenant_and_a_key_that_works_until_it_is_revoked() {
    let guarded = Guarded::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (operator, made) = (folder.path().join("operator"), folder.path().join("made"));
    let key = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    std::fs::write(&operator, format!("{key}\n")).unwrap();
    let tenant = ask(&guarded, &operator, &["tenants", "create", "initech"]).await;
    assert!(tenant.ends(0).out.starts_with("tenants/initech  ACTIVE"));
    let words = ["tenants", "quota", "initech", "--videos", "3"];
    let limited = ask(&guarded, &operator, &words).await.ends(0);
    assert!(limited.out.contains("0/3 videos"), "{limited:?}");
    let shown = ask(
        &guarded,
        &operator,
        &["--json", "tenants", "show", "initech"],
    )
    .await;
    let shown = &shown.ends(0).json()[0];
    assert_eq!(shown["quotas"]["videos"], 3);
    assert_eq!(shown["quotas"]["bytes"], serde_json::Value::Null);
    let words = [
        "--json",
        "keys",
        "create",
        "initech",
        "--scope",
        "read,write",
        "--out",
        word(&made),
    ];
    let created = ask(&guarded, &operator, &words).await.ends(0);
    let created = &created.json()[0];
    assert_eq!(created["tenant"], "tenants/initech");
    assert_eq!(created.get("secret"), None, "it went to the file");
    let id = created["name"].as_str().unwrap().to_owned();
    let checked = ask(&guarded, &made, &["--json", "keys", "check"])
        .await
        .ends(0);
    let checked = &checked.json()[0];
    assert_eq!(checked["principal"], id.as_str());
    assert_eq!(checked["scopes"], serde_json::json!(["read", "write"]));
    ask(&guarded, &made, &["videos", "list"]).await.ends(0);
    // It is no administrator's.
    let denied = ask(&guarded, &made, &["keys", "list"]).await.ends(77);
    assert!(denied.err.contains("tenant-admin"), "{denied:?}");
    ask(&guarded, &operator, &["keys", "revoke", &id])
        .await
        .ends(0);
    let refused = ask(&guarded, &made, &["videos", "list"]).await.ends(77);
    assert!(!refused.err.contains("revoked"), "{refused:?}");
    let listed = ask(&guarded, &operator, &["keys", "list", "initech"])
        .await
        .ends(0);
    assert!(listed.out.contains("revoked"), "{listed:?}");
    guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_come_from_the_environment_and_never_from_an_argument() {
    let guarded = Guarded::start().await;
    let key = guarded.key(Scopes::of(&[Scope::Read])).await;
    let server = guarded.server.address.to_string();
    let mut with = program();
    with.env("FRAMESHIFT_API_KEY", &key)
        .args(["--server", &server, "videos", "list"]);
    output(&mut with).await.ends(0);
    let mut without = program();
    without.args(["--server", &server, "videos", "list"]);
    output(&mut without).await.ends(77);
    let mut argument = program();
    argument.args(["--server", &server, "--api-key", &key, "videos", "list"]);
    output(&mut argument).await.ends(64);
    guarded.server.stop().await;
}

#[tokio::test]
async fn a_bootstrap_beside_the_data_directory_makes_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let bootstrap = async |out: &str| {
        let out = folder.path().join(out);
        let mut command = program();
        command.args([
            "keys",
            "bootstrap",
            "--data-dir",
            word(&data),
            "--out",
            word(&out),
        ]);
        output(&mut command).await
    };
    let first = bootstrap("first").await.ends(0);
    assert!(first.out.starts_with("keys/"), "{first:?}");
    let key = std::fs::read_to_string(folder.path().join("first")).unwrap();
    assert!(key.starts_with("fsk_") && !first.out.contains(key.trim()));
    let second = bootstrap("second").await.ends(1);
    assert!(second.err.contains("already"), "{second:?}");
    assert!(!folder.path().join("second").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lists_the_servers_and_a_tenants_administrator_does_not() {
    let guarded = Guarded::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (operator, tenant) = (folder.path().join("operator"), folder.path().join("tenant"));
    let key = guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    std::fs::write(&operator, key).unwrap();
    let key = guarded.key(Scopes::of(&[Scope::TenantAdmin])).await;
    std::fs::write(&tenant, key).unwrap();
    // A server is on record soon after it serves.
    crate::server::until(|| async {
        let listed = ask(&guarded, &operator, &["--json", "replicas"]).await;
        !listed.ends(0).json().is_empty()
    })
    .await;
    let listed = ask(&guarded, &operator, &["--json", "replicas"])
        .await
        .ends(0);
    let listed = listed.json();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let own = &listed[0];
    assert_eq!(
        (&own["state"], &own["role"]),
        (&"READY".into(), &"all".into()),
        "{own}"
    );
    let digest = guarded.server.wiring.backbone.digest().to_string();
    assert_eq!(own["backbone_digest"], digest);
    let shown = ask(&guarded, &operator, &["replicas"]).await.ends(0);
    assert!(shown.out.contains("READY"), "{shown:?}");
    ask(&guarded, &tenant, &["replicas"]).await.ends(77);
    guarded.server.stop().await;
}
