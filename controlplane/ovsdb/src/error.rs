//! Why is a database not followed any more?

use std::io;

use crate::{MAX_ALL_ADDRESSES, MAX_MESSAGE_BYTES, MAX_ROWS, MAX_TABLES_BYTES};

/// What went wrong with a connection. It is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OvsdbError {
    /// It cannot be made.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// It broke.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// It was closed.
    #[error("the database closed the connection")]
    Closed,
    /// Nothing comes.
    #[error("the database does not answer")]
    Silent,
    /// It answers, but does not tell its rows.
    #[error("the database answers, but does not tell its rows")]
    Untold,
    /// What comes is no JSON-RPC.
    #[error("what comes is no message of OVSDB: {0}")]
    Garbled(&'static str),
    /// A message is too long.
    #[error("a message is longer than {} MiB", MAX_MESSAGE_BYTES >> 20)]
    TooLong,
    /// A message has too many values for its length.
    #[error("a message has more values than a switch can have")]
    TooDense,
    /// The rows are too large.
    #[error("the rows take more than {} MiB", MAX_TABLES_BYTES >> 20)]
    TooMuch,
    /// There are too many rows.
    #[error("a table has more than {MAX_ROWS} rows")]
    TooMany,
    /// Interfaces have too many addresses.
    #[error("the interfaces have more than {MAX_ALL_ADDRESSES} addresses together")]
    Crowded,
    /// The database refuses to tell.
    #[error("the database refuses to tell: {0}")]
    Refused(String),
}
