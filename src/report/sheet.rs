//! Contact sheets: frames side by side in one picture that the page carries itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Markup, escape};

/// Gap between two frames, in pixels; it stays transparent.
const GAP: usize = 3;

/// Reasons why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A frame has another size than the sheet.
    #[error("frame {index} has {got} bytes of rgb, expected {expected}")]
    FrameSize {
        /// Index of the frame, from 0.
        index: usize,
        /// Bytes of a frame of the sheet's size: side × side × 3.
        expected: usize,
        /// Bytes of the frame.
        got: usize,
    },
    /// The picture could not be compressed.
    #[error("cannot write a png: {0}")]
    Png(#[from] png::EncodingError),
}

/// Mark of a strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// No mark.
    Plain,
    /// A right prediction.
    Right,
    /// A wrong prediction.
    Wrong,
}

/// Puts square frames (packed RGB, `[side, side, 3]`) side by side.
///
/// # Errors
/// When a frame has another size.
pub fn strip(frames: &[&[u8]], side: usize, mark: Mark, text: &str) -> Result<Markup, Error> {
    let class = match mark {
        Mark::Plain => "strip",
        Mark::Right => "strip right",
        Mark::Wrong => "strip wrong",
    };
    Ok(Markup(format!(
        "<img class=\"{class}\" alt=\"{}\" src=\"data:image/png;base64,{}\">",
        escape(text),
        STANDARD.encode(png(&[frames.to_vec()], side)?)
    )))
}

/// Puts rows of square frames (packed RGB, `[side, side, 3]`) below each other, as the bytes of a PNG file.
///
/// # Errors
/// When a frame has another size.
pub fn png(rows: &[Vec<&[u8]>], side: usize) -> Result<Vec<u8>, Error> {
    let extent = |count: usize| (count * (side + GAP)).saturating_sub(GAP).max(1);
    let width = extent(rows.iter().map(Vec::len).max().unwrap_or(0));
    let height = extent(rows.len());
    let mut pixels = vec![0; width * height * 4];
    for (row, frames) in rows.iter().enumerate() {
        for (index, frame) in frames.iter().enumerate() {
            if frame.len() != side * side * 3 {
                return Err(Error::FrameSize {
                    index,
                    expected: side * side * 3,
                    got: frame.len(),
                });
            }
            for (line, values) in frame.chunks_exact((side * 3).max(1)).enumerate() {
                let at = ((row * (side + GAP) + line) * width + index * (side + GAP)) * 4;
                let (target, _) = pixels[at..at + side * 4].as_chunks_mut::<4>();
                let (values, _) = values.as_chunks::<3>();
                for (to, from) in target.iter_mut().zip(values) {
                    to[..3].copy_from_slice(from);
                    to[3] = 255;
                }
            }
        }
    }
    Ok(written(&pixels, width, height)?)
}

/// A PNG file of RGBA pixels, `[height, width, 4]`.
///
/// # Errors
/// When there are other than width × height pixels, or none.
pub fn written(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_side_by_side() {
        let (red, blue) = ([255, 0, 0].repeat(4), [0, 0, 255].repeat(4));
        let bytes = png(&[vec![&red, &blue], vec![&blue]], 2).unwrap();
        let decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (7, 7));
        assert_eq!(pixels[..4], [255, 0, 0, 255]);
        assert_eq!(pixels[2 * 4..3 * 4], [0, 0, 0, 0]);
        assert_eq!(pixels[6 * 4..7 * 4], [0, 0, 255, 255]);
        assert_eq!(pixels[5 * 7 * 4..(5 * 7 + 1) * 4], [0, 0, 255, 255]);
    }

    #[test]
    fn a_frame_of_another_size_is_refused() {
        let wrong = strip(&[&[0; 11]], 2, Mark::Plain, "x");
        assert!(matches!(
            wrong,
            Err(Error::FrameSize {
                index: 0,
                expected: 12,
                got: 11
            })
        ));
    }

    #[test]
    fn a_strip_carries_its_picture() {
        let Markup(strip) = strip(&[&[7; 12]], 2, Mark::Wrong, "left \"or\" right").unwrap();
        assert!(strip.contains("strip wrong") && strip.contains("data:image/png;base64,iVBOR"));
        assert!(strip.contains("left &quot;or&quot; right"));
    }
}
