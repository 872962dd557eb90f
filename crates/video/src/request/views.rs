//! The parts of pictures that make views.

use crate::spec::SpatialViews;

/// A part of a picture in pixels, after rotation. What lies outside the picture is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// Left edge in pixels.
    pub x: u32,
    /// Upper edge in pixels.
    pub y: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
    /// Whether the part is mirrored left to right.
    pub flip: bool,
}

/// The parts of the pictures that make views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Views {
    /// The shorter side resized to the clip's size, then the centre.
    Center,
    /// Three along the longer side.
    Three,
    /// The four corners and the centre.
    Corners,
    /// These rectangles, each resized to the clip's size.
    Rects(Vec<Rect>),
}

impl Views {
    /// Number of spatial views.
    pub fn count(&self) -> usize {
        match self {
            Self::Center => 1,
            Self::Three => 3,
            Self::Corners => 5,
            Self::Rects(rects) => rects.len(),
        }
    }
}

impl From<SpatialViews> for Views {
    fn from(views: SpatialViews) -> Self {
        match views {
            SpatialViews::Center => Self::Center,
            SpatialViews::Three => Self::Three,
        }
    }
}
