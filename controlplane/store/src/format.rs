//! How does a generation look in a file?
//!
//! It is a policy file in TOML, with what is known about it in comments:
//!
//! ```text
//! # sluice generation, format 2; copy it, but do not edit it here
//! # {"generation":42,"predecessor":41,"applied_at_ns":1700000000000000000,...}
//! # [{"kind":"policy","name":"web","change":"changed","fields":[{"field":"tag","before":"1","after":"2"}]},...]
//! [[destination]]
//! ...
//! # crc32 0a1b2c3d
//! ```
//!
//! The third line has the changes from the generation before, or `null`; format 1 had no such line.
//! The policy text is kept byte for byte, with a line feed before the last line. There are no lengths to lie. The
//! checksum (CRC-32 of ISO-HDLC, as in gzip) covers every byte before the last line, and the last line has one form:
//! no byte can change unnoticed.
//!
//! What is for ever, so that any version can tell a newer format from damage: the first words with the number of the
//! format, and the last line. Older formats are read as they are; a file is never rewritten, and the last one of an
//! older format leaves the history [`KEPT`](crate::KEPT) changes after an upgrade.

use serde::{Deserialize, Serialize};
use sluice_model::Generation;
use sluice_model::spec::Change;

use crate::changes::Line;
use crate::entry::{Origin, Stored, Summary};
use crate::error::Damage;

/// The format that is written.
pub const FORMAT: u32 = 2;
/// The longest file that is read or written, in bytes.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

const MAGIC: &str = "# sluice generation, format ";
const SUM: &[u8] = b"\n# crc32 ";
/// The last line with the line feed before it: eight digits and a line feed follow the words.
const TRAILER_BYTES: usize = SUM.len() + 9;

/// The second line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    generation: u64,
    predecessor: Option<u64>,
    applied_at_ns: i64,
    applied_by: String,
    comment: String,
    origin: OriginName,
    policies: u32,
    groups: u32,
    destinations: u32,
}

/// These words are on disks: they never change.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OriginName {
    Boot,
    Apply,
    Put,
    Delete,
    Rollback { to: u64 },
}

/// A generation as the bytes of a file.
///
/// # Errors
///
/// None that is known of: every value can be written.
pub fn encode(stored: &Stored) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = format!("{MAGIC}{FORMAT}; copy it, but do not edit it here\n");
    comment(&mut text, &About::from(&stored.summary))?;
    comment(
        &mut text,
        &stored.changes.as_ref().map(|changes| changes.iter().map(Line::from).collect::<Vec<_>>()),
    )?;
    text.push_str(&stored.policy_text);
    Ok(seal(text.into_bytes()))
}

/// The generation that a file holds.
///
/// # Errors
///
/// What is wrong with the bytes. [`Damage::NewerFormat`] comes only if they are whole.
pub fn decode(bytes: &[u8]) -> Result<Stored, Damage> {
    if !bytes.starts_with(MAGIC.as_bytes()) {
        return Err(Damage::Magic);
    }
    let text = std::str::from_utf8(unseal(bytes)?)?;
    let (first, rest) = text.split_once('\n').ok_or(Damage::Magic)?;
    let format = first.strip_prefix(MAGIC).and_then(|rest| rest.split(';').next()).ok_or(Damage::Magic)?;
    match format.parse() {
        Ok(2) => format_2(rest),
        Ok(1) => format_1(rest),
        Ok(newer) if newer > FORMAT => Err(Damage::NewerFormat(newer)),
        _ => Err(Damage::Magic),
    }
}

fn format_2(rest: &str) -> Result<Stored, Damage> {
    let (about, rest) = parse_comment::<About>(rest, 2)?;
    let (lines, policy_text) = parse_comment::<Option<Vec<Line>>>(rest, 3)?;
    let changes: Option<Vec<Change>> = lines.map(|lines| lines.into_iter().map(Change::from).collect());
    let summary = about.summary(changes.as_ref().map(Vec::len));
    Ok(Stored { summary, changes, policy_text: policy_text.to_owned() })
}

/// As format 2, without the changes.
fn format_1(rest: &str) -> Result<Stored, Damage> {
    let (about, policy_text) = parse_comment::<About>(rest, 2)?;
    Ok(Stored { summary: about.summary(None), changes: None, policy_text: policy_text.to_owned() })
}

/// Adds the last line. Only for tests that make files which nobody wrote.
#[doc(hidden)]
#[must_use]
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(SUM);
    bytes.extend_from_slice(format!("{sum:08x}\n").as_bytes());
    bytes
}

/// The bytes before the last line.
fn unseal(bytes: &[u8]) -> Result<&[u8], Damage> {
    let at = bytes.len().checked_sub(TRAILER_BYTES).ok_or(Damage::Cut)?;
    let (sealed, trailer) = bytes.split_at(at);
    let digits = trailer.strip_prefix(SUM).and_then(|rest| rest.strip_suffix(b"\n")).ok_or(Damage::Cut)?;
    if !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Damage::Cut);
    }
    let stored = u32::from_str_radix(std::str::from_utf8(digits)?, 16).map_err(|_| Damage::Cut)?;
    match crc32fast::hash(sealed) {
        computed if computed == stored => Ok(sealed),
        computed => Err(Damage::Checksum { stored, computed }),
    }
}

/// Adds a line with a value.
fn comment(text: &mut String, value: &impl Serialize) -> Result<(), serde_json::Error> {
    text.push_str("# ");
    // JSON escapes all other characters that a comment of TOML must not hold.
    text.push_str(&serde_json::to_string(value)?.replace('\x7f', "\\u007f"));
    text.push('\n');
    Ok(())
}

/// The value of the first line, and what follows it.
fn parse_comment<'t, T: Deserialize<'t>>(text: &'t str, line: u32) -> Result<(T, &'t str), Damage> {
    let (value, rest) = text.split_once('\n').ok_or(Damage::Cut)?;
    let value = value.strip_prefix("# ").unwrap_or_default();
    Ok((serde_json::from_str(value).map_err(|source| Damage::Comment { line, source })?, rest))
}

impl From<&Summary> for About {
    fn from(summary: &Summary) -> Self {
        let origin = match summary.origin {
            Origin::Boot => OriginName::Boot,
            Origin::Apply => OriginName::Apply,
            Origin::Put => OriginName::Put,
            Origin::Delete => OriginName::Delete,
            Origin::Rollback { to } => OriginName::Rollback { to: to.0 },
        };
        Self {
            generation: summary.generation.0,
            predecessor: summary.predecessor.map(|generation| generation.0),
            applied_at_ns: summary.applied_at_ns,
            applied_by: summary.applied_by.clone(),
            comment: summary.comment.clone(),
            origin,
            policies: summary.policies,
            groups: summary.groups,
            destinations: summary.destinations,
        }
    }
}

impl About {
    fn summary(self, changes: Option<usize>) -> Summary {
        let origin = match self.origin {
            OriginName::Boot => Origin::Boot,
            OriginName::Apply => Origin::Apply,
            OriginName::Put => Origin::Put,
            OriginName::Delete => Origin::Delete,
            OriginName::Rollback { to } => Origin::Rollback { to: Generation(to) },
        };
        Summary {
            generation: Generation(self.generation),
            predecessor: self.predecessor.map(Generation),
            applied_at_ns: self.applied_at_ns,
            applied_by: self.applied_by,
            comment: self.comment,
            origin,
            policies: self.policies,
            groups: self.groups,
            destinations: self.destinations,
            changes,
        }
    }
}
