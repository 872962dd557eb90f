//! Contact sheets: pictures of any size in a grid, each scaled down to its cell.

use std::num::NonZeroU16;

use crate::report::sheet::written;
use crate::video::Picture;

/// Gap between two cells, in pixels; it stays transparent.
const GAP: usize = 4;

/// Width and height of a picture whose longest side is at most `side`.
fn fitted((width, height): (usize, usize), side: usize) -> (usize, usize) {
    let longest = width.max(height).max(1);
    if longest <= side {
        return (width, height);
    }
    let scaled = |length: usize| (length * side / longest).max(1);
    (scaled(width), scaled(height))
}

/// A pixel of a scaled picture: the mean of the pixels that it covers.
fn mean(picture: &Picture, columns: (usize, usize), rows: (usize, usize)) -> [u8; 3] {
    let stride = picture.width as usize * 3;
    let mut sums = [0_u64; 3];
    for y in rows.0..rows.1 {
        let row = &picture.rgb[y * stride + columns.0 * 3..y * stride + columns.1 * 3];
        for pixel in row.as_chunks::<3>().0 {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += u64::from(*value);
            }
        }
    }
    let count = ((columns.1 - columns.0) * (rows.1 - rows.0)) as u64;
    // A mean of bytes is a byte.
    sums.map(|sum| ((sum + count / 2) / count.max(1)) as u8)
}

/// Puts pictures into a grid, as the bytes of a PNG file.
pub(super) fn png(
    pictures: &[Picture],
    side: usize,
    columns: Option<NonZeroU16>,
) -> Result<Vec<u8>, png::EncodingError> {
    let count = pictures.len().max(1);
    let square = (1..=count).find(|columns| columns * columns >= count);
    let columns = columns.map_or(square.unwrap_or(1), |columns| usize::from(columns.get()));
    let columns = columns.min(count);
    let sizes: Vec<(usize, usize)> = (pictures.iter())
        .map(|picture| fitted((picture.width as usize, picture.height as usize), side))
        .collect();
    let cell = (
        sizes.iter().map(|size| size.0).max().unwrap_or(1),
        sizes.iter().map(|size| size.1).max().unwrap_or(1),
    );
    let width = columns * (cell.0 + GAP) - GAP;
    let height = count.div_ceil(columns) * (cell.1 + GAP) - GAP;
    let mut pixels = vec![0_u8; width * height * 4];
    for (place, (picture, size)) in pictures.iter().zip(&sizes).enumerate() {
        let corner = (
            place % columns * (cell.0 + GAP),
            place / columns * (cell.1 + GAP),
        );
        let from = (picture.width as usize, picture.height as usize);
        // A picture is never scaled up, so that a pixel covers at least one.
        let span = |at: usize, own: usize, from: usize| (at * from / own, (at + 1) * from / own);
        for y in 0..size.1 {
            let start = ((corner.1 + y) * width + corner.0) * 4;
            let row = pixels[start..start + size.0 * 4].as_chunks_mut::<4>().0;
            for (x, pixel) in row.iter_mut().enumerate() {
                let [r, g, b] = mean(picture, span(x, size.0, from.0), span(y, size.1, from.1));
                *pixel = [r, g, b, 255];
            }
        }
    }
    written(&pixels, width, height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, value: u8) -> Picture {
        Picture {
            width,
            height,
            rgb: vec![value; (width * height * 3) as usize],
        }
    }

    #[test]
    fn pictures_of_different_sizes_lie_in_a_grid() {
        let pictures = [picture(64, 32, 10), picture(8, 16, 90), picture(3, 3, 200)];
        let bytes = png(&pictures, 16, None).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (36, 36));
        let pixel = |x: usize, y: usize| &pixels[(y * 36 + x) * 4..][..4];
        assert_eq!(pixel(15, 7), [10, 10, 10, 255]);
        assert_eq!(pixel(15, 8), [0; 4], "below a wide picture");
        assert_eq!(pixel(20, 0), [90, 90, 90, 255]);
        assert_eq!(pixel(2, 22), [200, 200, 200, 255]);
        assert_eq!(fitted((1, 5000), 16), (1, 16));
    }
}
