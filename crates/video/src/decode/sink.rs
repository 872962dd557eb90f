//! Where wanted frames go: into a clip's planes, into pictures, or nowhere.
//!
//! Invariant: what is held depends on the request alone, never on the length of the video.

use std::collections::BTreeMap;

use super::convert::Converter;
use super::{Refusal, wide};
use crate::alter::Canvas;
use crate::answer::Picture;
use crate::ffmpeg::owned::Frame;
use crate::reject::Reject;
use crate::request::ClipSpec;
use crate::transform::{Planes, Rgb, View, plan};

/// Takes wanted frames; one that comes again replaces the earlier.
pub(super) trait Sink {
    /// Forgets what came: another pass begins.
    fn begin(&mut self) {}

    /// Takes a frame for these places of the selection.
    fn put(&mut self, frame: &Frame, slots: &[usize]) -> Result<(), Refusal>;

    /// Writes out what is held for this many places of the selection; returns width and height of each, if it has its own.
    fn finish(&mut self, _places: usize) -> Result<Vec<(u32, u32)>, Refusal> {
        Ok(Vec::new())
    }
}

/// The sink of a request that wants no frame.
pub(super) struct Nothing;

impl Sink for Nothing {
    fn put(&mut self, _frame: &Frame, _slots: &[usize]) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Makes planes, f32 [views, 3, T, S, S], spatial-major.
pub(super) struct ClipSink<'a> {
    spec: &'a ClipSpec,
    planes: &'a mut [f32],
    converter: Converter,
    /// The picture that is changed, when the request changes pictures.
    canvas: Canvas,
    /// The views of pictures of this size.
    views: Option<((usize, usize), Vec<View>)>,
    row: Vec<f32>,
}

impl<'a> ClipSink<'a> {
    /// A sink that fills `planes`, which holds exactly the views of `spec`.
    pub(super) fn new(spec: &'a ClipSpec, planes: &'a mut [f32], converter: Converter) -> Self {
        Self {
            spec,
            planes,
            converter,
            canvas: Canvas::default(),
            views: None,
            row: Vec::new(),
        }
    }
}

impl Sink for ClipSink<'_> {
    fn put(&mut self, frame: &Frame, slots: &[usize]) -> Result<(), Refusal> {
        let decoded = self.converter.rgb(frame)?;
        let size = (decoded.width, decoded.height);
        let picture = if self.spec.alters.is_empty() {
            decoded
        } else {
            let loaded = self.canvas.load(decoded.bytes, decoded.stride, size);
            loaded.map_err(|_| Reject::Memory)?;
            for alter in &self.spec.alters {
                self.canvas.apply(*alter);
            }
            Rgb {
                bytes: self.canvas.bytes(),
                stride: size.0 * 3,
                ..decoded
            }
        };
        let side = usize::from(self.spec.size);
        let views = match &mut self.views {
            Some((own, views)) if *own == size => views,
            slot => &mut slot.insert((size, plan(&self.spec.views, size, side))).1,
        };
        let frames = usize::from(self.spec.frames.get());
        let temporal_views = usize::from(self.spec.temporal_views.get());
        let plane = side * side;
        // Start of a view and place of the frame in it.
        let place = |spatial: usize, slot: usize| {
            let view = spatial * temporal_views + slot / frames;
            (view * 3 * frames * plane, slot % frames)
        };
        let Some((&first, rest)) = slots.split_first() else {
            return Ok(());
        };
        for (spatial, view) in views.iter().enumerate() {
            let (start, frame) = place(spatial, first);
            let planes = Planes {
                values: &mut self.planes[start..start + 3 * frames * plane],
                frames,
                frame,
            };
            wide::write(
                view,
                picture,
                &self.spec.normalization,
                planes,
                &mut self.row,
            );
            for &slot in rest {
                let (to, to_frame) = place(spatial, slot);
                for channel in 0..3 {
                    let from = start + (channel * frames + frame) * plane;
                    let to = to + (channel * frames + to_frame) * plane;
                    self.planes.copy_within(from..from + plane, to);
                }
            }
        }
        Ok(())
    }
}

/// Keeps whole pictures and writes them one after the other.
pub(super) struct PictureSink<'a> {
    room: &'a mut [u8],
    converter: Converter,
    /// Pictures and the places that each fills, by the first of them.
    held: BTreeMap<usize, (Picture, Vec<usize>)>,
    held_bytes: usize,
}

impl<'a> PictureSink<'a> {
    /// A sink that writes pictures to `room`.
    pub(super) fn new(room: &'a mut [u8], converter: Converter) -> Self {
        Self {
            room,
            converter,
            held: BTreeMap::new(),
            held_bytes: 0,
        }
    }
}

impl Sink for PictureSink<'_> {
    fn begin(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    fn put(&mut self, frame: &Frame, slots: &[usize]) -> Result<(), Refusal> {
        let Some(&first) = slots.first() else {
            return Ok(());
        };
        let picture = self.converter.rgb(frame)?;
        let row = picture.width * 3;
        let bytes = row * picture.height;
        if self.held_bytes + bytes > self.room.len() {
            return Err(Refusal::PicturesTooLarge);
        }
        let mut rgb = Vec::new();
        rgb.try_reserve_exact(bytes).map_err(|_| Reject::Memory)?;
        for line in picture.bytes.chunks(picture.stride).take(picture.height) {
            rgb.extend_from_slice(&line[..row]);
        }
        let picture = Picture {
            // Frame sizes are positive `c_int`s.
            width: picture.width as u32,
            height: picture.height as u32,
            rgb,
        };
        self.held_bytes += bytes;
        if let Some(earlier) = self.held.insert(first, (picture, slots.to_vec())) {
            self.held_bytes -= earlier.0.rgb.len();
        }
        Ok(())
    }

    fn finish(&mut self, places: usize) -> Result<Vec<(u32, u32)>, Refusal> {
        let mut filled = vec![None; places];
        for (picture, slots) in self.held.values() {
            for &slot in slots {
                *filled.get_mut(slot).ok_or(Reject::Undecodable)? = Some(picture);
            }
        }
        let mut sizes = Vec::with_capacity(places);
        let mut at = 0;
        for picture in filled {
            let picture = picture.ok_or(Reject::Undecodable)?;
            let target = self
                .room
                .get_mut(at..at + picture.rgb.len())
                .ok_or(Refusal::PicturesTooLarge)?;
            target.copy_from_slice(&picture.rgb);
            at += picture.rgb.len();
            sizes.push((picture.width, picture.height));
        }
        Ok(sizes)
    }
}
