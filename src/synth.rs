//! Drawn images and motion clips.
