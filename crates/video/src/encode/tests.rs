//! What the encoder writes, the decoder reads.

use super::*;

fn encode(format: Format) -> Vec<u8> {
    let mut encoder = Encoder::new(format, 64, 48, 25).unwrap();
    for i in 0..10_u8 {
        let picture: Vec<u8> = (0..64 * 48 * 3)
            .map(|k| (k as u8).wrapping_mul(i))
            .collect();
        encoder.push(&picture).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn the_same_pictures_give_the_same_file() {
    for (format, magic, at) in [
        (Format::Mp4, b"ftyp", 4),
        (Format::Lossless, b"\x1a\x45\xdf\xa3", 0),
    ] {
        let file = encode(format);
        assert_eq!(&file[at..at + 4], magic);
        assert_eq!(file, encode(format));
    }
}

#[test]
fn wrong_sizes_are_errors() {
    assert!(matches!(
        Encoder::new(Format::Mp4, 63, 48, 25),
        Err(Error::Geometry { .. })
    ));
    let mut encoder = Encoder::new(Format::Lossless, 64, 48, 25).unwrap();
    assert!(matches!(
        encoder.push(&[0; 5]),
        Err(Error::PictureSize {
            expected: 9216,
            got: 5
        })
    ));
}
