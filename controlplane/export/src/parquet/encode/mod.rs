//! How does a column of a row group become bytes: dictionary, pages, statistics, compression?
//!
//! The general writer of the `parquet` crate hashes, compares and packs value by value, through several layers. Records
//! have few kinds of columns, so these are done here, a page at a time; the crate writes page headers, the footer and
//! the page index. The format is that of parquet-format 2.x, "Encodings.md" and "PageIndex.md".

mod chunk;
mod dictionary;
mod packing;

pub(crate) use chunk::{Encoder, Form};
use dictionary::Texts;

/// The values of a column that are there, and which rows have none.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) values: Values,
    /// The largest number that the column can have: what is above is this one.
    pub(crate) most: u64,
    /// For each row whether it has a value, where the column may have none.
    pub(crate) present: Option<Vec<u8>>,
}

/// Values in the order of the rows.
#[derive(Debug)]
pub(crate) enum Values {
    /// Of 32 bits in the file.
    Narrow(Vec<u32>),
    /// Of 64 bits in the file.
    Wide(Vec<u64>),
    /// As places in a list of texts.
    Text(Box<Texts>),
}
