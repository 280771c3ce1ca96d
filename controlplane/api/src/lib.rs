//! The gRPC API of Sluice.
#![forbid(unsafe_code)]

/// The messages of `sluice.v1` as generated from the protos, with a module for each service.
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("sluice.v1");
}
