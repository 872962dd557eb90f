//! What a load needs on the server: tenants with stored clips, and tasks that serve versions of random weights.
//!
//! Invariant: versions are made and written by the product's own code and come in by its import, so that they are loaded as any other.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::calls::{import, upload};
use super::{Error, during};
use crate::client::{self, Client};
use crate::model::{Activation, BackboneConfig};
use crate::proto::v1;
use crate::rng::Stream;
use crate::spec::{AdapterConfig, Head, Normalization};
use crate::synth::motion::{self, Motion, Variety};
use crate::tools::bench_compute::random_classes;
use crate::video::encode::{Encoder, Format, Settings};

/// Calls at once while tasks and clips are made or removed: each waits for the disk.
const AT_ONCE: usize = 8;
/// Frames of a clip.
pub(super) const NUM_FRAMES: u32 = 8;
/// The tenant of a server whose callers prove who they are.
pub(super) const GUARDED: &str = "bench-guarded";
/// Seconds of the long video, and its frames.
const SECONDS: u32 = 300;
pub(super) const FRAMES: u32 = SECONDS * motion::RATE;
/// Side of a synthetic picture in pixels, when nothing else is said.
pub(super) const SIDE: usize = 96;
/// What synthetic clips show.
pub(super) const MOTION: Motion = Motion::Direction;

/// A maker of adapter files for a backbone.
#[derive(Debug, Clone)]
pub(in crate::tools) struct Sets {
    shape: BackboneConfig,
    width: u32,
    /// Whether adapters are before attention, too.
    is_on_both: bool,
    /// Whether only the last half of the blocks has adapters.
    is_in_last_half: bool,
}

impl Sets {
    /// Sets with adapters of this width before every MLP of a server's backbone.
    pub(in crate::tools) fn new(backbone: &v1::Backbone, width: u32) -> Self {
        // What an adapter depends on is the width and the number of blocks; the rest is as the server says, or does not matter.
        let shape = BackboneConfig {
            image_size: backbone.image_size as usize,
            patch_size: backbone.patch_size as usize,
            width: backbone.width as usize,
            layers: backbone.layers as usize,
            heads: backbone.heads as usize,
            mlp_width: backbone.mlp_width as usize,
            activation: Activation::named(&backbone.activation).unwrap_or(Activation::QuickGelu),
            eps: backbone.layer_norm_eps,
            pre_norm: true,
            patch_bias: false,
            normalization: Normalization::CLIP,
        };
        Self {
            shape,
            width,
            is_on_both: false,
            is_in_last_half: false,
        }
    }

    /// Returns the maker of sets of about this width in every block, divided among two adapters where a server would refuse one as wide as that.
    pub(super) fn with_width(&self, width: u32) -> Self {
        let most = 4 * u32::try_from(self.shape.width).unwrap_or(u32::MAX / 4);
        let is_on_both = width > most;
        Self {
            width: if is_on_both {
                (width / 2).min(most)
            } else {
                width
            },
            is_on_both,
            ..self.clone()
        }
    }

    /// Returns the maker of sets with adapters in the last half of the blocks alone.
    pub(super) fn in_last_half(&self) -> Self {
        Self {
            is_in_last_half: true,
            ..self.clone()
        }
    }

    /// Whether adapters are in the last half of the blocks alone.
    pub(super) fn is_in_last_half(&self) -> bool {
        self.is_in_last_half
    }

    /// Returns the maker of sets that are a head alone.
    pub(super) fn without_adapters(&self) -> Self {
        Self {
            width: 0,
            ..self.clone()
        }
    }

    /// The configuration of the adapters.
    pub(super) fn config(&self) -> AdapterConfig {
        if self.width == 0 {
            return AdapterConfig::LINEAR_PROBE;
        }
        AdapterConfig {
            adapter_width: self.width,
            adapter_layers: (self.is_in_last_half)
                .then(|| u32::try_from(self.shape.layers / 2).ok())
                .flatten()
                .and_then(NonZeroU32::new),
            adapter_kernel_size: [3, 1, 1],
            adapter_pre_attn: self.is_on_both,
            adapter_pre_mlp: true,
            head: Head::Mean,
        }
    }

    /// A set of random weights as a file; equal seeds give equal bytes.
    ///
    /// # Errors
    /// When the backbone is none that adapters fit.
    pub(in crate::tools) fn file(&self, seed: u64) -> Result<Bytes, Error> {
        let classes = MOTION.labels().len();
        let set = random_classes(&self.shape, self.config(), classes, seed)?;
        Ok(set.to_safetensors(BTreeMap::new())?.into())
    }
}

/// Clips to be classified: these files, or else synthetic ones.
///
/// # Errors
/// When a file cannot be read or a clip not be encoded.
pub(super) fn clips(files: &[PathBuf], seed: u64) -> Result<Vec<Bytes>, Error> {
    /// Synthetic clips: enough that no two neighbours in a batch are the same one.
    const CLIPS: usize = 32;
    if !files.is_empty() {
        let read = |path: &PathBuf| {
            let read = std::fs::read(path).map(Bytes::from);
            read.map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })
        };
        return files.iter().map(read).collect();
    }
    drawn(seed, CLIPS, SIDE)
}

/// Synthetic clips, so many of pictures of this side in pixels.
///
/// # Errors
/// When one cannot be encoded.
pub(in crate::tools) fn drawn(seed: u64, count: usize, side: usize) -> Result<Vec<Bytes>, Error> {
    drawn_again(seed, count, side, 1)
}

/// The same clips, each of which shows everything so many times.
///
/// # Errors
/// When one cannot be encoded.
pub(super) fn drawn_again(
    seed: u64,
    count: usize,
    side: usize,
    times: usize,
) -> Result<Vec<Bytes>, Error> {
    let stream = Stream::new(seed, "bench/clips");
    let drawn = motion::clips(MOTION, Variety::Training, count, side, &stream);
    let encode = |clip: motion::Clip| {
        let side = clip.side as u32;
        let mut encoder = Encoder::new(Format::Mp4, side, side, motion::RATE)?;
        for frame in std::iter::repeat_n(&clip.frames, times).flatten() {
            encoder.push(frame)?;
        }
        Ok(encoder.finish()?.into())
    };
    drawn.into_iter().map(encode).collect()
}

/// A synthetic video of five minutes: clips one after the other, again and again.
///
/// # Errors
/// When it cannot be encoded.
pub(super) fn film(seed: u64, side: usize) -> Result<Bytes, Error> {
    const CLIPS: usize = 8;
    let stream = Stream::new(seed, "bench/windows");
    let clips = motion::clips(MOTION, Variety::Training, CLIPS, side, &stream);
    let frames = clips.iter().flat_map(|clip| &clip.frames).cycle();
    let mut encoder = Encoder::new(Format::Mp4, side as u32, side as u32, motion::RATE)?;
    for frame in frames.take(FRAMES as usize) {
        encoder.push(frame)?;
    }
    Ok(encoder.finish()?.into())
}

/// The pictures of a synthetic clip as JPEGs, for live streams.
///
/// # Errors
/// When one cannot be encoded.
pub(super) fn pictures(seed: u64) -> Result<Vec<Bytes>, Error> {
    let stream = Stream::new(seed, "bench/pictures");
    let drawn = motion::clips(MOTION, Variety::Training, 1, SIDE, &stream);
    let settings = Settings::new("mjpeg", "mjpeg");
    let encode = |frame: &Vec<u8>| {
        let mut encoder = Encoder::with(&settings, SIDE as u32, SIDE as u32, motion::RATE)?;
        encoder.push(frame)?;
        Ok(encoder.finish()?.into())
    };
    drawn
        .iter()
        .flat_map(|clip| &clip.frames)
        .map(encode)
        .collect()
}

/// A tenant, its connections, its tasks and its stored clips.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) name: String,
    /// Address of the server.
    pub(super) address: String,
    pub(super) clients: Vec<Client>,
    /// Names of the tasks that serve, `tasks/…`.
    pub(super) tasks: Vec<String>,
    /// Names of the stored clips, `videos/…`.
    pub(super) videos: Vec<String>,
    /// Names of the data sets, `datasets/…`.
    pub(super) datasets: Vec<String>,
}

impl Tenant {
    /// A tenant without tasks and clips.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(super) async fn connect(
        address: &str,
        name: &str,
        connections: usize,
    ) -> Result<Self, Error> {
        let mut clients = Vec::new();
        for _ in 0..connections.max(1) {
            let client = Client::connect(address, Some(name)).await;
            clients.push(client.map_err(during("connect"))?);
        }
        Ok(Self {
            name: name.to_owned(),
            address: address.to_owned(),
            clients,
            tasks: Vec::new(),
            videos: Vec::new(),
            datasets: Vec::new(),
        })
    }

    /// The tenant of a client that proves who it is, without tasks and clips.
    pub(super) fn of_client(address: &str, client: Client) -> Self {
        Self {
            name: GUARDED.to_owned(),
            address: address.to_owned(),
            clients: vec![client],
            tasks: Vec::new(),
            videos: Vec::new(),
            datasets: Vec::new(),
        }
    }

    /// Gives up the connections: a server that drains waits for clients that stay.
    pub(super) fn disconnect(&mut self) {
        self.clients.clear();
    }

    /// Connects again, to a server that was restarted.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub(super) async fn reconnect(
        &mut self,
        address: &str,
        connections: usize,
    ) -> Result<(), Error> {
        let new = Self::connect(address, &self.name, connections).await?;
        (self.clients, self.address) = (new.clients, new.address);
        Ok(())
    }

    /// A connection.
    ///
    /// # Errors
    /// Never for a tenant that was connected.
    pub(super) fn client(&self) -> Result<&Client, Error> {
        self.clients.first().ok_or(Error::Incomplete {
            what: "a connection",
        })
    }

    /// Stores clips.
    ///
    /// # Errors
    /// When the server refuses one.
    pub(super) async fn upload(&mut self, clips: &[Bytes]) -> Result<(), Error> {
        let client = self.client()?;
        let uploads = clips.iter().map(|clip| upload(client, clip));
        self.videos = stream::iter(uploads)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(())
    }

    /// Imports sets until this many tasks serve.
    ///
    /// # Errors
    /// When the server refuses one, or cannot serve it.
    pub(super) async fn import(&mut self, sets: &Sets, tasks: usize) -> Result<(), Error> {
        let client = self.client()?;
        let missing = self.tasks.len()..tasks.max(self.tasks.len());
        let imports = missing.map(|number| async move {
            let file = sets.file(number as u64)?;
            let task = format!("tasks/bench-{number}");
            let version = import(client, &task, file).await?;
            let serving = client::tasks::until_serving(client, &task, &version.name);
            serving.await.map_err(during("wait until a task serves"))?;
            Ok::<_, Error>(task)
        });
        let made: Vec<String> = stream::iter(imports)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        self.tasks.extend(made);
        Ok(())
    }

    /// Asks each task once about the first clip, so that all sets that fit are resident.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn ask_all(&self) -> Result<(), Error> {
        let client = self.client()?;
        let video = self.videos.first().ok_or(Error::Incomplete {
            what: "a stored clip",
        })?;
        let asked = self.tasks.iter().map(|task| async move {
            let request = v1::ClassifyRequest {
                task: task.clone(),
                source: Some(v1::classify_request::Source::Video(video.clone())),
                ..Default::default()
            };
            let answer = client.classification().classify(request).await;
            answer.map(drop).map_err(during("classify a clip"))
        });
        let asked = stream::iter(asked).buffered(AT_ONCE).try_collect::<()>();
        asked.await
    }

    /// Removes the data sets, the tasks and the clips from the server.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn clear(self) -> Result<(), Error> {
        let client = self.client()?;
        for name in &self.datasets {
            let request = v1::DeleteDatasetRequest { name: name.clone() };
            let removed = client.datasets().delete_dataset(request).await;
            removed.map_err(during("remove a data set"))?;
        }
        let tasks = self.tasks.iter().map(|name| async move {
            let request = v1::DeleteTaskRequest {
                name: name.clone(),
                ..Default::default()
            };
            let removed = client.tasks().delete_task(request).await;
            removed.map(drop).map_err(during("remove a task"))
        });
        let tasks = stream::iter(tasks).buffered(AT_ONCE).try_collect::<()>();
        tasks.await?;
        let videos = self.videos.iter().map(|name| async move {
            let request = v1::DeleteVideoRequest {
                name: name.clone(),
                force: true,
            };
            let removed = client.videos().delete_video(request).await;
            removed.map(drop).map_err(during("remove a clip"))
        });
        let videos = stream::iter(videos).buffered(AT_ONCE).try_collect::<()>();
        videos.await
    }
}
