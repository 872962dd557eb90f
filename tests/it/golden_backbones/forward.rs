//! The bare backbone: patch embedding, every block that the case has, and the final norm of the class token.

use candle_core::{Device, Tensor};
use frameshift::model::Backbone;

use super::case::Case;
use super::golden::{Golden, distance};

/// Worst error as a share of the limit, and where it is.
struct Worst(f64, String);

/// The golden pixels, the outputs of all blocks, and the class tokens after the final norm.
pub(super) fn states(golden: &Golden, backbone: &Backbone) -> (Tensor, Vec<Tensor>, Tensor) {
    let (shape, _) = golden.get("pixels");
    let pixels = Tensor::from_vec(golden.floats("pixels"), shape.as_slice(), &Device::Cpu)
        .expect("pixels are a tensor");
    let blocks = backbone
        .hidden_states(&pixels)
        .expect("pixels pass the blocks");
    let class = (blocks.last().expect("a block"))
        .narrow(1, 0, 1)
        .and_then(|class| class.squeeze(1))
        .expect("a class token");
    let class = backbone
        .final_norm(&class)
        .expect("the class token is normed");
    (pixels, blocks, class)
}

pub(super) fn check(case: &Case, backbone: &Backbone) {
    let golden = Golden::read(&case.folder.join("expected.safetensors"));
    let (pixels, blocks, class) = states(&golden, backbone);
    let embeddings = backbone.embed(&pixels).expect("pixels are embedded");
    let tokens = blocks.last().expect("a block").clone();

    let mut worst = Worst(0.0, String::new());
    let mut compared = 0;
    for (name, (shape, expected)) in &golden.0 {
        let got = match name.as_str() {
            "pixels" => continue,
            "embeddings" => &embeddings,
            "tokens" => &tokens,
            "cls" => &class,
            other => {
                let block = other
                    .strip_prefix("block.")
                    .and_then(|block| block.parse::<usize>().ok())
                    .unwrap_or_else(|| panic!("{}: what is {other}?", case.name));
                &blocks[block]
            }
        };
        assert_eq!(got.dims(), shape, "{}: {name}", case.name);
        let values = got
            .flatten_all()
            .and_then(|flat| flat.to_vec1::<f32>())
            .expect("f32 values");
        let share = distance(&values, expected) / case.atol;
        if share >= worst.0 {
            worst = Worst(share, name.clone());
        }
        compared += 1;
    }
    let Worst(share, name) = worst;
    println!(
        "{}: worst {share:.3} of the limit ({name}), {compared} tensors",
        case.name
    );
    // A case decides itself which outputs it has.
    assert!(compared > 0, "{}: nothing to compare with", case.name);
    assert!(
        share <= 1.0,
        "{}: {name} is {share:.3} of its limit away",
        case.name
    );
}
