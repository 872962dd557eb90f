//! Affine maps of a picture with bicubic interpolation, as Pillow computes them (a = -1, in double precision).

/// Writes to `to` what each pixel's centre is mapped to by (a, b, c, d, e, f): x' = a x + b y + c, y' = d x + e y + f; `fill` where that lies outside.
pub(super) fn bicubic(
    from: &[u8],
    to: &mut [u8],
    (width, height): (usize, usize),
    [a, b, c, d, e, f]: [f64; 6],
    fill: u8,
) {
    let (right, lower) = (width as f64, height as f64);
    for (y, row) in to.chunks_exact_mut((width * 3).max(1)).enumerate() {
        let (pixels, _) = row.as_chunks_mut::<3>();
        for (x, pixel) in pixels.iter_mut().enumerate() {
            let (middle_x, middle_y) = (x as f64 + 0.5, y as f64 + 0.5);
            let at_x = a * middle_x + b * middle_y + c;
            let at_y = d * middle_x + e * middle_y + f;
            let is_inside = (0.0..right).contains(&at_x) && (0.0..lower).contains(&at_y);
            *pixel = match is_inside {
                true => sample(from, (width, height), (at_x - 0.5, at_y - 0.5)),
                false => [fill; 3],
            };
        }
    }
}

/// The value at a place between pixels; those outside the picture are the nearest inside.
fn sample(from: &[u8], (width, height): (usize, usize), (x, y): (f64, f64)) -> [u8; 3] {
    let (left, upper) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - upper);
    let near = |place: f64, offset: i64, length: usize| {
        (place as i64 + offset).clamp(0, length as i64 - 1) as usize
    };
    let columns = [-1, 0, 1, 2].map(|offset| near(left, offset, width) * 3);
    let rows = [-1, 0, 1, 2].map(|offset| near(upper, offset, height) * width * 3);
    std::array::from_fn(|channel| {
        let line = |row: usize| {
            let values = columns.map(|column| f64::from(from[row + column + channel]));
            cubic(values, dx)
        };
        // A cast saturates and cuts off, as Pillow does.
        cubic(rows.map(line), dy) as u8
    })
}

fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let p1 = v2;
    let p2 = -v1 + v3;
    let p3 = 2.0 * (v1 - v2) + v3 - v4;
    let p4 = -v1 + v2 - v3 + v4;
    p1 + d * (p2 + d * (p3 + d * p4))
}
