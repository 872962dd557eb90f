//! Crops, scale jitter and random erasing beside the reference's own functions, run with the same draws (tests/peer/crops.py).

use serde_json::Value;

use super::{Crop, Draws, Fallback};

fn vectors() -> Value {
    let text = include_str!("../../../tests/data/peer/crops.json");
    serde_json::from_str(text).expect("vectors")
}

fn cases(vectors: &Value, name: &str) -> Vec<Vec<Value>> {
    let rows = vectors[name].as_array().expect("cases").iter();
    rows.map(|row| row.as_array().expect("a case").clone())
        .collect()
}

fn whole(value: &Value) -> u32 {
    value
        .as_u64()
        .and_then(|value| value.try_into().ok())
        .expect("a number")
}

/// A rectangle `[x, y, width, height]`; `None` when there is none.
fn part(value: &Value) -> Option<Crop> {
    let [x, y, width, height] = value.as_array()?.iter().map(whole).collect::<Vec<_>>()[..] else {
        panic!("no rectangle: {value}")
    };
    Some(Crop {
        x,
        y,
        width,
        height,
    })
}

#[test]
fn crops_are_those_of_the_reference_where_a_draw_fits_and_where_none_does() {
    let vectors = vectors();
    let draws = Draws::new(vectors["seed"].as_u64().expect("a seed"));
    let (mut fitting, mut fallen_back) = (0, 0);
    for case in cases(&vectors, "crops") {
        let size = (whole(&case[0]), whole(&case[1]));
        let least = case[2].as_f64().expect("an area");
        let got = draws.crop(0, whole(&case[3]).into(), size, (least, Fallback::Shape));
        assert_eq!(Some(got), part(&case[4]), "{case:?}");
        let square = draws.crop(0, whole(&case[3]).into(), size, (least, Fallback::Square));
        match got == square {
            true => fitting += 1,
            false => fallen_back += 1,
        }
    }
    assert!(
        fitting > 100 && fallen_back > 100,
        "{fitting} and {fallen_back}"
    );
}

#[test]
fn erased_parts_are_those_of_the_reference() {
    let vectors = vectors();
    let draws = Draws::new(vectors["seed"].as_u64().expect("a seed"));
    let mut erased = 0;
    for case in cases(&vectors, "erased") {
        let probability = case[1].as_f64().expect("a probability");
        let side = whole(&case[0]) as usize;
        let got = draws.erased(0, whole(&case[2]).into(), side, probability);
        assert_eq!(got, part(&case[3]), "{case:?}");
        erased += u32::from(got.is_some());
    }
    assert!((40..80).contains(&erased), "{erased} of 120");
}

/// The reference rounds the sides of the scaled picture, and never draws the last place of the square.
#[test]
fn a_jittered_part_is_that_of_the_reference_but_for_its_rounding() {
    let vectors = vectors();
    let draws = Draws::new(vectors["seed"].as_u64().expect("a seed"));
    let view = f64::from(whole(&vectors["view"]));
    let all = cases(&vectors, "jitters");
    assert!(all.len() > 100);
    for case in all {
        let size = (whole(&case[0]), whole(&case[1]));
        let largest = case[2].as_f64().expect("a scale");
        let got = draws.jitter(0, whole(&case[3]).into(), size, largest);
        let got = [got.x, got.y, got.width, got.height];
        let reference = case[4].as_array().expect("a rectangle");
        // Pixels of the view, as large as they are in the picture.
        let pixel = (f64::from(size.0.min(size.1)) / view).max(1.0);
        for (own, reference) in got.iter().zip(reference) {
            let apart = (f64::from(*own) - reference.as_f64().expect("a number")).abs();
            assert!(apart <= 2.0 * pixel, "{case:?}: {got:?}");
        }
    }
}
