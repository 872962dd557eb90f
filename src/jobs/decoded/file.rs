//! A file of decoded frames.
//!
//! Invariant: a frame is handed out only after its bytes were compared with their sum, and the sums with theirs; a file that is cut, changed or of something
//! else is an error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::spec::Digest;

/// Bytes with which every file begins.
const MAGIC: [u8; 8] = *b"fsclip\x00\x01";
/// Bytes before the sums of the frames: magic number, key, frames, side.
const BEGINNING: usize = 8 + 32 + 4 + 4;
/// Bytes of a frame's sum: the beginning of its sha256.
const SUM: usize = 16;

/// How many frames a file has, and the side of each in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) frames: u32,
    pub(super) side: u16,
}

impl Shape {
    /// Values of a frame's plane.
    fn plane(self) -> usize {
        usize::from(self.side) * usize::from(self.side)
    }

    /// Bytes of a frame, f32 [3, S, S].
    fn frame(self) -> usize {
        3 * self.plane() * size_of::<f32>()
    }

    /// Bytes before the frames.
    fn head(self) -> usize {
        BEGINNING + SUM * self.frames as usize + 32
    }

    /// Bytes of the whole file.
    pub(super) fn bytes(self) -> u64 {
        (self.head() as u64).saturating_add(u64::from(self.frames) * self.frame() as u64)
    }

    fn at(self, frame: u32) -> u64 {
        self.head() as u64 + u64::from(frame) * self.frame() as u64
    }

    fn beginning(self, key: Digest) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head());
        bytes.extend(MAGIC);
        bytes.extend(key.0);
        bytes.extend(self.frames.to_le_bytes());
        bytes.extend(u32::from(self.side).to_le_bytes());
        bytes
    }
}

/// Reads frames, in this order, as planes `[3, T, S, S]`.
pub(super) fn read(
    path: &Path,
    (key, shape): (Digest, Shape),
    frames: &[u32],
) -> io::Result<Arc<[f32]>> {
    let damaged = || io::Error::new(ErrorKind::InvalidData, "it is damaged");
    let file = File::open(path)?;
    if file.metadata()?.len() != shape.bytes() {
        return Err(damaged());
    }
    let mut head = vec![0; shape.head()];
    file.read_exact_at(&mut head, 0)?;
    let (head, sum) = head.split_at(shape.head() - 32);
    let (beginning, sums) = head.split_at(BEGINNING);
    if beginning != shape.beginning(key) || sum != Sha256::digest(head).as_slice() {
        return Err(damaged());
    }
    let plane = shape.plane();
    let mut planes = vec![0.0; 3 * frames.len() * plane];
    let mut bytes = vec![0; shape.frame()];
    for (place, frame) in frames.iter().enumerate() {
        let begin = SUM.saturating_mul(*frame as usize);
        let sum = sums.get(begin..begin + SUM).ok_or_else(damaged)?;
        file.read_exact_at(&mut bytes, shape.at(*frame))?;
        if sum != &Sha256::digest(&bytes)[..SUM] {
            return Err(damaged());
        }
        let (quads, _) = bytes.as_chunks();
        for (channel, quads) in quads.chunks_exact(plane.max(1)).enumerate() {
            let begin = (channel * frames.len() + place) * plane;
            for (value, quad) in planes[begin..begin + plane].iter_mut().zip(quads) {
                *value = f32::from_le_bytes(*quad);
            }
        }
    }
    Ok(planes.into())
}

/// A file that is being written; it is removed unless it is finished.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    path: PathBuf,
    key: Digest,
    shape: Shape,
    /// Sums of the frames that were written.
    sums: Vec<u8>,
    is_finished: bool,
}

impl Writer {
    /// Begins a file under a name that no other has.
    pub(super) fn begin(path: PathBuf, (key, shape): (Digest, Shape)) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(&path)?;
        Ok(Self {
            file,
            path,
            key,
            shape,
            sums: Vec::new(),
            is_finished: false,
        })
    }

    /// Adds the frames of planes `[3, n, S, S]` after those that are there.
    pub(super) fn add(&mut self, planes: &[f32]) -> io::Result<()> {
        let plane = self.shape.plane();
        let count = planes.len() / (3 * plane).max(1);
        let first = self.sums.len() / SUM;
        if planes.len() != 3 * count * plane || first + count > self.shape.frames as usize {
            let problem = format!("{} values are no frames of this file", planes.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, problem));
        }
        let mut bytes = Vec::with_capacity(self.shape.frame());
        for frame in 0..count {
            bytes.clear();
            for channel in 0..3 {
                let begin = (channel * count + frame) * plane;
                let values = planes[begin..begin + plane].iter();
                bytes.extend(values.flat_map(|value| value.to_le_bytes()));
            }
            let at = self.shape.at((first + frame) as u32);
            self.file.write_all_at(&bytes, at)?;
            self.sums.extend(&Sha256::digest(&bytes)[..SUM]);
        }
        Ok(())
    }

    /// Gives the file its name. It is not synced: a file that a crash damaged is found by its sums.
    pub(super) fn finish(mut self, path: &Path) -> io::Result<()> {
        if self.sums.len() != SUM * self.shape.frames as usize {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "frames are missing",
            ));
        }
        let mut head = self.shape.beginning(self.key);
        head.append(&mut self.sums);
        let sum = Sha256::digest(&head);
        head.extend(sum);
        self.file.write_all_at(&head, 0)?;
        fs::rename(&self.path, path)?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_finished {
            // One that stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Digest = Digest([7; 32]);
    const SHAPE: Shape = Shape { frames: 5, side: 2 };

    /// Planes [3, n, 2, 2] whose values tell channel, frame and place.
    fn planes(frames: &[u32]) -> Vec<f32> {
        let of = |channel: u32| {
            let frames = frames.iter();
            frames
                .flat_map(move |frame| (0..4).map(move |i| (100 * channel + 10 * frame + i) as f32))
        };
        (0..3).flat_map(of).collect()
    }

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("whole");
        let mut writer = Writer::begin(folder.join("part"), (KEY, SHAPE)).unwrap();
        writer.add(&planes(&[0, 1])).unwrap();
        writer.add(&planes(&[2, 3, 4])).unwrap();
        writer.finish(&path).unwrap();
        path
    }

    #[test]
    fn frames_come_back_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        assert_eq!(fs::metadata(&path).unwrap().len(), SHAPE.bytes());
        for frames in [&[0, 1, 2, 3, 4][..], &[3], &[4, 0, 0], &[]] {
            let read = read(&path, (KEY, SHAPE), frames).unwrap();
            assert_eq!(read[..], planes(frames), "{frames:?}");
        }
        assert!(read(&path, (KEY, SHAPE), &[5]).is_err());
    }

    #[test]
    fn a_cut_or_changed_file_and_one_of_something_else_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let whole = fs::read(&path).unwrap();
        let all = [0, 1, 2, 3, 4];
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path, (KEY, SHAPE), &all).is_err(), "{length} bytes");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert!(read(&path, (KEY, SHAPE), &all).is_err(), "byte {place}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(read(&path, (KEY, SHAPE), &all).is_ok());
        assert!(read(&path, (Digest([8; 32]), SHAPE), &all).is_err());
        let other = Shape {
            frames: 20,
            side: 1,
        };
        assert!(read(&path, (KEY, other), &all).is_err());
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("part");
        let mut writer = Writer::begin(part.clone(), (KEY, SHAPE)).unwrap();
        assert!(Writer::begin(part, (KEY, SHAPE)).is_err());
        assert!(writer.add(&[0.0; 5]).is_err());
        assert!(writer.add(&planes(&[0, 1, 2, 3, 4, 5])).is_err());
        writer.add(&planes(&[0, 1])).unwrap();
        assert!(writer.finish(&folder.path().join("whole")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
