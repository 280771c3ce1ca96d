//! Batches, stages, workers, ports: how packets move.
//!
//! A [`Worker`] takes packets from its sources through the stages of [`stage`] to its exits. Around the workers stand
//! a control thread (neighbours, links, clock) and a file writer; [`replay`] runs the same worker over capture files.
#![forbid(unsafe_code)]

pub mod batch;
pub mod clock;
mod control_queues;
pub mod counters;
mod deployment;
mod distributor;
pub mod feed_watch;
pub mod files;
pub mod flow_read;
mod gate;
pub mod idle;
pub mod latency;
pub mod ledger;
pub mod machine;
pub mod output;
pub mod port;
pub mod port_pairs;
pub mod recent;
pub mod replay;
mod replay_breaker;
pub mod runtime;
pub mod sequence;
pub mod shadow;
pub mod stage;
pub mod stats;
pub mod tally;
pub mod tap;
mod tap_filter;
pub mod tap_rows;
pub mod tunnels;
mod worker;

pub use control_queues::{ControlFrame, ControlQueues, PortChange, PortRules};
pub use deployment::{Deployment, DeploymentParts};
pub use distributor::{Distributor, DistributorParts};
pub use gate::{CaptureLimit, Gate};
pub use worker::{Worker, WorkerParts};
