//! Features as Parquet: one row a video or, per frame, one row a frame.
//!
//! Invariant: all rows are of one version and one backbone, which the file's metadata name.

use std::path::{Path, absolute};

use serde_json::{Value, json as object};

use super::{Args, unlike, wanted};
use crate::client::columnar::Columns;
use crate::client::{Error, json};
use crate::proto::v1;

/// Columns of a video.
const CLIP: &str = "message clip {
    required binary video (STRING);
    optional binary path (STRING);
    optional double start_seconds;
    optional double end_seconds;
    required group frames (LIST) {
        repeated group list {
            required group element {
                required int64 index;
                optional double time_seconds;
            }
        }
    }
";

/// Columns of a frame.
const FRAME: &str = "message frame {
    required binary video (STRING);
    optional binary path (STRING);
    required int32 view;
    required int32 frame;
    required int64 frame_index;
    optional double time_seconds;
";

/// The features, the last column.
const F32: &str = "
    required group features (LIST) { repeated group list { required float element; } }
}";
const F16: &str = "
    required group features (LIST) { repeated group list { required fixed_len_byte_array(2) element (FLOAT16); } }
}";

/// The rows so far.
pub(super) struct Table {
    columns: Columns,
    per_frame: bool,
    rows: usize,
    /// The version and the digest of the backbone of all rows, and their type and width.
    common: Option<(String, Vec<u8>, v1::ElementType, u32)>,
}

impl Table {
    pub(super) fn open(args: &Args) -> Result<Self, Error> {
        if args.out.exists() && !args.force {
            let path = args.out.clone();
            return Err(Error::Exists { path });
        }
        let fields = if args.per_frame { FRAME } else { CLIP };
        let features = if args.f16 { F16 } else { F32 };
        let mut columns = Columns::create(&args.out, &format!("{fields}{features}"))?;
        columns.describe("element_type", if args.f16 { "f16" } else { "f32" });
        for (key, is_so) in [
            ("normalized", args.normalize),
            ("before_final_norm", args.before_final_norm),
            ("per_frame", args.per_frame),
        ] {
            columns.describe(key, is_so.to_string());
        }
        Ok(Self {
            columns,
            per_frame: args.per_frame,
            rows: 0,
            common: None,
        })
    }

    pub(super) fn add(&mut self, video: &str, answer: &v1::EmbedResponse) -> Result<Value, Error> {
        let array = wanted(answer, self.per_frame)?;
        self.agree(video, answer, array)?;
        let row = self.rows;
        match self.per_frame {
            true => self.add_frames(video, answer, array)?,
            false => self.add_clip(video, answer, array)?,
        }
        Ok(object!({
            "row": row,
            "rows": self.rows - row,
            "video": video,
            "version": answer.version,
            "backbone_digest": json::hex(&answer.backbone_digest),
            "frames": json::frames(&answer.sampled),
        }))
    }

    /// Compares an answer with those before; the first one is the whole file's.
    fn agree(
        &mut self,
        video: &str,
        answer: &v1::EmbedResponse,
        array: &v1::Array,
    ) -> Result<(), Error> {
        let width = array.shape.last().copied().unwrap_or_default();
        let digest = answer.backbone_digest.to_vec();
        let own = (answer.version.clone(), digest, array.r#type(), width);
        if let Some(common) = &self.common {
            let what = if common.1 != own.1 {
                "backbone"
            } else if common.0 != own.0 {
                "version"
            } else {
                "shape"
            };
            return match *common == own {
                true => Ok(()),
                false => Err(unlike(video, what)),
            };
        }
        self.columns
            .describe("backbone_digest", json::hex(&answer.backbone_digest));
        self.columns.describe("version", answer.version.as_str());
        self.columns.describe("width", width.to_string());
        self.common = Some(own);
        Ok(())
    }

    fn add_clip(
        &mut self,
        video: &str,
        answer: &v1::EmbedResponse,
        array: &v1::Array,
    ) -> Result<(), Error> {
        let times = answer.sampled.iter();
        let times = times.filter_map(|frame| json::seconds(frame.time.as_ref()));
        let row = object!({
            "video": video,
            "path": path(video),
            "start_seconds": times.clone().reduce(f64::min),
            "end_seconds": times.reduce(f64::max),
            "frames": json::frames(&answer.sampled),
        });
        self.rows += 1;
        self.columns.add(&row, &array.data)
    }

    fn add_frames(
        &mut self,
        video: &str,
        answer: &v1::EmbedResponse,
        array: &v1::Array,
    ) -> Result<(), Error> {
        let [_, frames, width] = array.shape[..] else {
            return Err(Error::Truncated);
        };
        let bytes = match array.r#type() {
            v1::ElementType::F16 => 2,
            v1::ElementType::F32 | v1::ElementType::Unspecified => 4,
        };
        let (frames, row_bytes) = (frames as usize, width as usize * bytes);
        if frames == 0 || row_bytes == 0 || answer.sampled.is_empty() {
            return Err(Error::Truncated);
        }
        let path = path(video);
        for (at, features) in array.data.chunks(row_bytes).enumerate() {
            // The sampled frames are those of each temporal view; a view of another part of the pictures has the same.
            let sampled = &answer.sampled[at % answer.sampled.len()];
            let row = object!({
                "video": video,
                "path": path,
                "view": at / frames,
                "frame": at % frames,
                "frame_index": sampled.index,
                "time_seconds": json::seconds(sampled.time.as_ref()),
            });
            self.rows += 1;
            self.columns.add(&row, features)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        match self.rows {
            0 => Ok(()),
            _ => self.columns.finish(),
        }
    }
}

/// The place of a video that is a file on this machine.
fn path(video: &str) -> Option<String> {
    let is_stored = video.starts_with("videos/") && !Path::new(video).exists();
    let path = (!is_stored).then(|| absolute(video).ok()).flatten();
    path.map(|path| path.to_string_lossy().into_owned())
}
