//! The store of the objects, as it is configured: a folder or a bucket, and the cache before it.

use crate::config::Config;
use crate::store::{Error, Store};
use crate::telemetry::Metrics;

/// Opens the store. A folder is created when it does not exist; a bucket is not asked yet.
pub(super) async fn open(config: &Config, metrics: &Metrics) -> Result<Store, Error> {
    let store = match &config.objects {
        Some(bucket) => Store::in_bucket(bucket, metrics.clone())?,
        None => Store::open(&config.data_dir.join("objects"))?,
    };
    match config.cache.clone() {
        Some(cache) => store.with_cache(cache, metrics.clone()).await,
        None => Ok(store),
    }
}

/// Returns where the objects are, in words.
pub(super) fn place(config: &Config) -> String {
    match &config.objects {
        Some(bucket) => bucket.url.to_string(),
        None => config.data_dir.join("objects").display().to_string(),
    }
}
