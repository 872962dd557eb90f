//! A loop that only runs the model, on the server's CPUs: what serving over gRPC is compared with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::load::{self, Overrides};
use crate::model::{AdapterSet, Backbone, Inference, Segment, Step};
use crate::rng::Stream;
use crate::spec::Precision;
use crate::tools::bench_compute::random_classes;
use crate::tools::bench_serve::affinity;
use crate::tools::bench_serve::material::{MOTION, NUM_FRAMES, Sets};
use crate::tools::bench_serve::{Error, system};

/// Clips of a batch: those of the engine's largest.
const BATCH: usize = 16;

/// A backbone, a set and a batch of clips.
pub(super) struct Raw {
    backbone: Arc<Backbone>,
    set: Arc<AdapterSet>,
    clips: Vec<Arc<[f32]>>,
    cpus: Option<Vec<usize>>,
}

impl Raw {
    /// The built-in backbone in this precision, as a server loads it.
    ///
    /// # Errors
    /// When it does not load.
    pub(super) fn new(
        precision: Precision,
        sets: &Sets,
        cpus: Option<Vec<usize>>,
    ) -> Result<Self, Error> {
        let plan = load::builtin(&Overrides::default())?;
        let backbone = Backbone::from_plan(&plan, precision)?;
        let shape = backbone.config();
        let set = random_classes(shape, sets.config(), MOTION.labels().len(), 0)?;
        let len = NUM_FRAMES as usize * shape.frame_len();
        let stream = Stream::new(1, "bench/raw");
        let clip = |number: usize| {
            let mut stream = stream.fork(number as u64);
            (0..len).map(|_| stream.range(-2.0, 2.0)).collect()
        };
        Ok(Self {
            clips: (0..BATCH).map(clip).collect(),
            set: Arc::new(set.beside(&backbone)?),
            backbone: Arc::new(backbone),
            cpus,
        })
    }

    /// Measures the clips a second of full batches, one after the other, for this long.
    ///
    /// # Errors
    /// When the model refuses or the CPUs cannot be chosen.
    pub(super) fn clips_per_s(&self, time: Duration) -> Result<f64, Error> {
        let measure = || {
            self.batch()?;
            let (start, mut batches) = (Instant::now(), 0);
            while start.elapsed() < time {
                self.batch()?;
                batches += 1;
            }
            let seconds = start.elapsed().as_secs_f64();
            Ok((batches * BATCH) as f64 / seconds)
        };
        match &self.cpus {
            Some(cpus) => affinity::on(cpus, measure).map_err(system("choose CPUs"))?,
            None => measure(),
        }
    }

    fn batch(&self) -> Result<(), Error> {
        let segment = Segment {
            set: Arc::clone(&self.set),
            clips: 0..self.clips.len(),
            num_frames: NUM_FRAMES as usize,
        };
        let backbone = Arc::clone(&self.backbone);
        let mut batch = Inference::new(backbone, self.clips.clone(), vec![segment])?;
        while batch.advance()? != Step::Done {}
        batch.into_logits()?;
        Ok(())
    }
}
