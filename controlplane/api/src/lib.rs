//! The gRPC API of Sluice: messages, stubs for clients and servers, and what ties them to the model.
//!
//! [`v1`] is generated from the protos in `proto/sluice/v1`; a server implements its traits
//! ([`v1::policy_service_server::PolicyService`] and so on). The rest of the crate says what a message means to the model:
//! [`validate`] for a policy set, [`packet_filter`] and [`flow_filter`] for filters, [`methods`] for who may call what.
//! Nothing here opens a socket or knows DPDK.
//!
//! ```
//! use sluice_api::{v1, validate};
//!
//! let policy = v1::Policy {
//!     name: "web".into(),
//!     collect: Some(v1::Side { addresses: vec!["10.0.0.1/8".into()], ports: vec!["90-80".into()] }),
//!     action: v1::Action::Drop.into(),
//!     ..v1::Policy::default()
//! };
//! let errors = validate(&v1::PolicySet { policies: vec![policy], ..v1::PolicySet::default() }).unwrap_err();
//! let told: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
//! assert_eq!(
//!     told,
//!     [
//!         "error: policies[0].collect.addresses[0]: bad CIDR \"10.0.0.1/8\": bits are set after the prefix; \
//!          write 10.0.0.0/8 for the network, or 10.0.0.1 for the one host",
//!         "error: policies[0].collect.ports[0]: reversed range 90-80; write 80-90",
//!     ]
//! );
//! ```
#![forbid(unsafe_code)]

mod change;
mod filter;
mod finding;
pub mod methods;
mod policy;
mod weight;
mod words;

pub use filter::{FlowMatch, flow_filter, packet_filter};
pub use finding::{findings, rebase};
pub use policy::{NotInProto, POLICY_REVISION, validate, validate_spec};
pub use weight::{MAX_DECODED_BYTES, decoded_bytes};

/// The messages of `sluice.v1` as generated from the protos, with modules of stubs for each service.
#[allow(clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("sluice.v1");
}

/// The compiled protos with their comments (a serialized `google.protobuf.FileDescriptorSet`), for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The Unix socket that the daemon serves the API on where nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/sluice/sluiced.sock";

/// The largest message that carries a policy set, in bytes: as much as a policy file may have.
pub const MAX_POLICY_SET_BYTES: usize = 64 << 20;

/// The largest message of any other kind to the server, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
