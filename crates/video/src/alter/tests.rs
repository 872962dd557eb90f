//! Every operation against what Pillow makes of the same pictures (`tests/pillow/vectors.py`).

use serde_json::Value;

use super::*;

const INDEX: &str = include_str!("../../../../tests/data/pillow/vectors.json");
const DATA: &[u8] = include_bytes!("../../../../tests/data/pillow/vectors.bin");

/// The operation of an entry; `None` for a picture that operations are applied to.
fn operation(entry: &Value) -> Option<Alter> {
    let argument = entry["argument"].as_f64().unwrap_or_default();
    let float = argument as f32;
    Some(match entry["name"].as_str().unwrap() {
        "Picture" => return None,
        "AutoContrast" => Alter::AutoContrast,
        "Equalize" => Alter::Equalize,
        "Invert" => Alter::Invert,
        "Rotate" => Alter::Rotate(float),
        "Posterize" => Alter::Posterize(argument as u8),
        "Solarize" => Alter::Solarize(argument as u16),
        "SolarizeAdd" => Alter::SolarizeAdd(argument as u8),
        "Color" => Alter::Color(float),
        "Contrast" => Alter::Contrast(float),
        "Brightness" => Alter::Brightness(float),
        "Sharpness" => Alter::Sharpness(float),
        "ShearX" => Alter::ShearX(float),
        "ShearY" => Alter::ShearY(float),
        "TranslateX" => Alter::TranslateX(float),
        "TranslateY" => Alter::TranslateY(float),
        other => panic!("{other} is no operation"),
    })
}

#[test]
fn pictures_become_what_pillow_makes_of_them() {
    let index: Value = serde_json::from_str(INDEX).unwrap();
    let entries = index["entries"].as_array().unwrap();
    let number = |entry: &Value, field: &str| entry[field].as_u64().unwrap() as usize;
    let (mut picture, mut seen) = (&DATA[..0], 0);
    let mut canvas = Canvas::default();
    for entry in entries {
        let size = (number(entry, "width"), number(entry, "height"));
        let len = size.0 * size.1 * 3;
        let own = &DATA[number(entry, "offset")..][..len];
        let Some(alter) = operation(entry) else {
            picture = own;
            continue;
        };
        assert!(alter.is_valid(), "{alter:?}");
        canvas.load(picture, size.0 * 3, size).unwrap();
        canvas.apply(alter);
        let is_exact = matches!(
            alter,
            Alter::AutoContrast
                | Alter::Equalize
                | Alter::Invert
                | Alter::Posterize(_)
                | Alter::Solarize(_)
                | Alter::SolarizeAdd(_)
        );
        let apart = canvas.bytes().iter().zip(own).map(|(a, b)| a.abs_diff(*b));
        let most = apart.max().unwrap();
        assert!(most <= u8::from(!is_exact), "{alter:?} of {size:?}: {most}");
        seen += 1;
    }
    // Ten results of eleven operations, five of one and one of three, of two pictures.
    assert_eq!(seen, 2 * (11 * 10 + 5 + 3));
}

#[test]
fn a_stride_is_left_out_and_small_pictures_have_no_middle_to_smooth() {
    let mut canvas = Canvas::default();
    canvas.load(&[1, 2, 3, 99, 4, 5, 6, 99], 4, (1, 2)).unwrap();
    assert_eq!(canvas.bytes(), [1, 2, 3, 4, 5, 6]);
    canvas.apply(Alter::Sharpness(0.1));
    assert_eq!(canvas.bytes(), [1, 2, 3, 4, 5, 6]);
    canvas.apply(Alter::Equalize);
    canvas.apply(Alter::Rotate(30.0));
    assert_eq!(canvas.bytes().len(), 6);
}

#[test]
fn what_moves_leaves_grey_behind() {
    let mut canvas = Canvas::default();
    canvas.load(&[7; 4 * 4 * 3], 12, (4, 4)).unwrap();
    canvas.apply(Alter::TranslateX(0.5));
    let row = &canvas.bytes()[..12];
    assert_eq!(row, [7, 7, 7, 7, 7, 7, 128, 128, 128, 128, 128, 128]);
}
