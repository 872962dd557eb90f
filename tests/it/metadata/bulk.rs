//! Hundreds of thousands of videos, put into a database's file directly: each is an upload in earnest, which would take hours.

use std::path::Path;

use frameshift::ids::{TenantId, VideoId};
use frameshift::spec::Split;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::fixture::{example, probe};
use frameshift::metadata::ExampleRecord;

/// The id of a video by its number: ids sort as numbers do.
pub(crate) fn video_id(number: u64) -> VideoId {
    let id = format!("00000000-0000-7000-8000-{number:012}");
    id.parse().expect("an id")
}

/// Opens a database that a server may have open, too.
pub(crate) async fn open(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.connect().await.expect("a database")
}

/// Adds records of the videos from 1 to `count`, without blobs.
pub(crate) async fn add_videos(path: &Path, tenant: &TenantId, count: u64) {
    let mut conn = open(path).await;
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
               INSERT INTO videos \
               (tenant, id, display_name, size_bytes, sha256, probe, create_time) \
               SELECT ?, printf('00000000-0000-7000-8000-%012d', i), 'clip.mp4', 1, \
               zeroblob(32), ?, 0 FROM n";
    sqlx::query(sql)
        .bind(count as i64)
        .bind(tenant.as_str())
        .bind(serde_json::to_string(&probe()).expect("a probe"))
        .execute(&mut conn)
        .await
        .expect("videos");
    conn.close().await.expect("closed");
}

/// Pages of examples of the videos from 1 to `count`, with labels in turn; every tenth is of the validation split.
pub(crate) fn pages(count: u64, labels: u64) -> impl Iterator<Item = Vec<ExampleRecord>> {
    let example = move |number: u64| {
        let split = match number % 10 {
            0 => Split::Validation,
            _ => Split::Train,
        };
        example(
            video_id(number),
            &format!("label {}", number / 7 % labels),
            split,
        )
    };
    (0..count.div_ceil(1000)).map(move |page| {
        let numbers = 1 + page * 1000..=count.min(1000 * (page + 1));
        numbers.map(example).collect()
    })
}
