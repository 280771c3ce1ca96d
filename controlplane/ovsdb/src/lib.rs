//! Which virtual machines and ports does Open vSwitch know, and which addresses have they?
//!
//! [`follow`] stays connected to the database of the switch (ovsdb-server, RFC 7047), by a Unix socket or TCP, and tells
//! what changes as an [`Inventory`]; [`Inventory::guests`] says what the names stand for that policies may use. It only
//! reads. When the database goes away, what was known stays, and the connection is tried again by itself.
//!
//! # Why a client of its own
//!
//! The crates that there are ([ovsdb](https://docs.rs/ovsdb), [ovsdb-client](https://docs.rs/ovsdb-client)) are early
//! releases: neither bounds what a server may send, nor comes back by itself after a restart. What is needed is one request
//! and the updates that follow it.
//!
//! What the database says is another program's: it is read or refused, within bounds, and never believed.
#![forbid(unsafe_code)]

mod client;
mod error;
mod inventory;
mod session;
mod split;
mod tables;

pub use client::{Heard, follow};
pub use error::OvsdbError;
pub use inventory::{Interface, Inventory, MAX_ALL_ADDRESSES};
pub use session::Session;
pub use split::MAX_MESSAGE_BYTES;
pub use tables::{MAX_ROWS, MAX_TABLES_BYTES};
