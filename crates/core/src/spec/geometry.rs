//! The limits on a task's shape that depend on its backbone.

use super::{AdapterConfig, ClipSampling, Invalid};

/// Most values of one temporal view of a clip, its spatial views together: as much as a video worker's memory has room for.
pub const MAX_CLIP_VALUES: usize = 64 << 20;

/// The sizes of a backbone that limit its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Side of a view, in pixels.
    pub image_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the tokens.
    pub width: usize,
}

/// Largest width of an adapter's bottleneck, by the width of the tokens. The paper's widest has half of it; one of four times the width has more
/// weights than the block's own MLP.
const MAX_WIDTH_RATIO: usize = 4;

impl Geometry {
    /// Checks that a task can be trained and classified with this backbone.
    ///
    /// # Errors
    /// Names the first field that does not fit, as a path below the task.
    pub fn check(&self, adapter: &AdapterConfig, sampling: &ClipSampling) -> Result<(), Invalid> {
        if let Some(layers) = adapter.adapter_layers
            && adapter.has_sites()
            && layers.get() as usize > self.layers
        {
            let problem = format!("the backbone has {} blocks, got {layers}", self.layers);
            return Err(Invalid::new("adapter.adapter_layers", problem));
        }
        let widest = MAX_WIDTH_RATIO * self.width;
        if adapter.has_sites() && adapter.adapter_width as usize > widest {
            let problem = format!(
                "the backbone's tokens have width {}, so that adapters may have 1 to {widest}, got {}",
                self.width, adapter.adapter_width
            );
            return Err(Invalid::new("adapter.adapter_width", problem));
        }
        adapter.head.check(sampling.num_frames)?;
        let (side, views) = (self.image_size, sampling.spatial_views.count());
        let values = |frames: usize| 3 * side * side * views * frames;
        let frames = usize::from(sampling.num_frames.get());
        if values(frames) > MAX_CLIP_VALUES {
            let most = MAX_CLIP_VALUES / values(1).max(1);
            let problem = format!(
                "at most {most} frames of {side} px in {views} spatial views can be decoded together, got {frames}"
            );
            return Err(Invalid::new("sampling.num_frames", problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SpatialViews;

    #[test]
    fn what_the_backbone_cannot_do_is_named() {
        let geometry = |image_size, layers| Geometry {
            image_size,
            layers,
            width: 64,
        };
        let sampling = |frames: u16| ClipSampling {
            spatial_views: SpatialViews::Three,
            ..ClipSampling::uniform(frames.try_into().unwrap())
        };
        let adapter = AdapterConfig {
            adapter_width: 8,
            adapter_layers: 7.try_into().ok(),
            adapter_pre_mlp: true,
            ..AdapterConfig::LINEAR_PROBE
        };
        let field = |geometry: Geometry, frames| {
            let checked = geometry.check(&adapter, &sampling(frames));
            checked.map_err(|invalid| invalid.field)
        };
        assert_eq!(field(geometry(224, 12), 64), Ok(()));
        assert_eq!(field(geometry(224, 6), 8), Err("adapter.adapter_layers"));
        let narrow = Geometry {
            width: 1,
            ..geometry(224, 12)
        };
        assert_eq!(field(narrow, 8), Err("adapter.adapter_width"));
        assert_eq!(field(geometry(336, 12), 64), Ok(()));
        assert_eq!(field(geometry(448, 12), 64), Err("sampling.num_frames"));
    }
}
