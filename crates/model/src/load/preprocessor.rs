//! Mean and deviation of pixels, as transformers' processors store them beside the weights.

use std::path::Path;

use super::decide::Said;
use super::fields::Fields;
use super::file::read_json;
use super::{Error, MAX_CONFIG};
use crate::spec::{Invalid, Normalization};

/// Default rescaling of transformers' processors, which maps a pixel to 0 to 1.
const RESCALE: f64 = 1.0 / 255.0;

/// Mean and deviation from `preprocessor_config.json` or `processor_config.json`; the family's own when neither exists.
pub(super) fn normalization(
    folder: &Path,
    own: Normalization,
) -> Result<Said<Normalization>, Error> {
    let alone = folder.join("preprocessor_config.json");
    let of_processor = folder.join("processor_config.json");
    let (path, key) = if alone.exists() {
        (alone, None)
    } else if of_processor.exists() {
        (of_processor, Some("image_processor"))
    } else {
        return Ok(Said::new(own, "the family's rule"));
    };
    let object: serde_json::Map<String, serde_json::Value> = read_json(&path, MAX_CONFIG)?;
    let read = || {
        let fields = Fields(&object);
        match key {
            None => read_normalization(fields, own),
            Some(key) => fields
                .object(key)?
                .map_or(Ok(own), |inner| read_normalization(inner, own)),
        }
    };
    let from = match key {
        None => "preprocessor_config.json",
        Some(_) => "processor_config.json",
    };
    match read() {
        Ok(normalization) => Ok(Said::new(normalization, from)),
        Err(source) => Err(Error::Config { path, source }),
    }
}

fn read_normalization(fields: Fields<'_>, own: Normalization) -> Result<Normalization, Invalid> {
    let rescale = fields.number("rescale_factor", RESCALE)?;
    if !fields.flag("do_rescale", true)? || (rescale / RESCALE - 1.0).abs() > 1e-3 {
        return Err(Invalid::new(
            "rescale_factor",
            "only pixels that are divided by 255 are supported",
        ));
    }
    if !fields.flag("do_normalize", true)? {
        return Ok(Normalization {
            mean: [0.0; 3],
            std: [1.0; 3],
        });
    }
    of_fields(fields, ["image_mean", "image_std"], own)
}

/// Mean and deviation under these keys.
pub(super) fn of_fields(
    fields: Fields<'_>,
    [mean, std]: [&'static str; 2],
    own: Normalization,
) -> Result<Normalization, Invalid> {
    let (means, stds) = (fields.channels(mean)?, fields.channels(std)?);
    if stds.is_some_and(|stds| stds.iter().any(|&channel| channel <= 0.0)) {
        return Err(Invalid::new(std, "expected positive numbers"));
    }
    Ok(Normalization {
        mean: means.unwrap_or(own.mean),
        std: stds.unwrap_or(own.std),
    })
}
