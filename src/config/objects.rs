//! Where the objects are, and the copies of them on a local disk.

use super::load::{Error, Layered};
use super::settings::Settings;
use crate::store::bucket::Invalid;
use crate::store::{Bucket, cache};

/// Returns the bucket of the objects; none when they are in a folder.
pub(super) fn bucket(layers: &Layered, settings: &Settings) -> Result<Option<Bucket>, Error> {
    let Some(text) = &settings.objects_url else {
        for (key, is_set) in [
            ("objects_endpoint", settings.objects_endpoint.is_some()),
            (
                "objects_credentials_file",
                settings.objects_credentials_file.is_some(),
            ),
        ] {
            if is_set {
                return Err(layers.complain(key, "has no meaning without objects_url"));
            }
        }
        return Ok(None);
    };
    let wrong =
        |key: &'static str| move |invalid: Invalid| layers.complain(key, invalid.to_string());
    let url = text.parse().map_err(wrong("objects_url"))?;
    let bucket = Bucket::new(
        url,
        settings.objects_endpoint.clone(),
        settings.objects_credentials_file.clone(),
        layers.platform(),
    );
    bucket.map(Some).map_err(wrong("objects_endpoint"))
}

/// Returns the cache of objects. A folder on this machine needs none, unless the operator asks for one.
pub(super) fn cache(settings: &Settings) -> Option<cache::Config> {
    let own = settings.objects_url.as_ref();
    let own = own.map(|_| settings.data_dir.join("cache"));
    let folder = settings.cache_dir.clone().or(own)?;
    let bytes = settings.cache_bytes.0;
    (bytes > 0).then_some(cache::Config { folder, bytes })
}
