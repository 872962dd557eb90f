//! The configuration: every component's own, composed and validated.
