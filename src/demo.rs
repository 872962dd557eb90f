//! The quickstart: the main job through the public gRPC API alone.
