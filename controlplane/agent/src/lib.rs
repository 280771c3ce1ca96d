//! The control plane on the appliance: puts policies in force, keeps their history, and serves the API `sluice.v1`.
//!
//! [`Policies`] is the one place through which policies change, whoever asks: the file at the start, a signal, a client.
//! [`Server`] serves it, and what there is to see, on threads of its own.
#![forbid(unsafe_code)]

mod access;
mod body;
mod capture;
mod connection;
mod gate;
mod guests;
mod history;
mod life;
mod listen;
mod pcap_folder;
mod policies;
mod rate;
mod refusals;
mod server;
mod service;
mod specimen;

pub use access::{AccessError, check_access};
pub use guests::{GuestBook, GuestReport, OvsWatch};
pub use history::{History, HistoryError, Origin, Record};
pub use life::{
    CgroupLeaf, Code, Enforced, Event, Exception, Life, LifeError, LifeReport, LifeWatch, Round, State,
};
pub use policies::{Change, ChangeError, Check, Current, Outcome, Policies, PortError, parse};
pub use refusals::{ApiCounts, Refusal, Transport};
pub use server::{ServeError, Server};
pub use sluice_store::Repair;
