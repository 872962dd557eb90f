//! The gRPC services: requests in, domain calls, answers out.
