//! Which policy sets were in force, when, and by whom?

use std::collections::VecDeque;
use std::path::Path;

use sluice_model::Generation;
use sluice_model::spec::Change;
use sluice_store::{Entry, KEPT, Repair, Store, Summary};

/// What made a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The policy file.
    File,
    /// A whole set was applied.
    Apply,
    /// A policy, group or destination was put.
    Put,
    /// A policy, group or destination was deleted.
    Delete,
    /// An earlier generation was rolled back to.
    Rollback(Generation),
}

/// A set that was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub generation: Generation,
    /// When it came into force, nanoseconds since 1970 (UTC).
    pub applied_at_ns: i64,
    /// Who applied it.
    pub applied_by: String,
    /// Why.
    pub comment: String,
    /// What made it.
    pub origin: Origin,
    /// Policies in it, those included that are switched off.
    pub policies: u32,
    /// Groups of addresses in it.
    pub groups: u32,
    /// Destinations in it.
    pub destinations: u32,
    /// What is different from the generation before.
    pub changes: Vec<Change>,
    /// The set as a policy file.
    pub text: String,
}

/// Why a generation cannot be kept, or is not there.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is too old, or never was.
    #[error("generation {} is not kept; the last {KEPT} are", .0.0)]
    NotKept(Generation),
    /// The store does not take it, or does not give it.
    #[error(transparent)]
    Store(#[from] sluice_store::StoreError),
}

impl HistoryError {
    /// Whether another process has the store.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        matches!(self, Self::Store(sluice_store::StoreError::Locked { .. }))
    }
}

/// The generations, oldest first. The last one is in force.
///
/// With a store they outlive the daemon; else they are kept in memory.
#[derive(Debug, Default)]
pub struct History {
    kept: VecDeque<Record>,
    /// The greatest number that was handed out without a store.
    reserved: u64,
    /// Has the texts, where there is one.
    store: Option<Store>,
}

impl History {
    /// The history in the store of this folder, and what of it was repaired.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn open(folder: &Path) -> Result<(Self, Vec<Repair>), HistoryError> {
        let (store, repairs) = Store::open(folder)?;
        let kept = store.history().iter().map(Record::from).collect();
        Ok((Self { kept, reserved: 0, store: Some(store) }, repairs))
    }

    /// The generation that was in force last.
    ///
    /// # Errors
    /// When the store cannot read it.
    pub fn last(&self) -> Result<Option<Record>, HistoryError> {
        self.kept.back().map(|record| self.get(record.generation)).transpose()
    }

    /// A number for the next generation: larger than all before, and never handed out again.
    ///
    /// # Errors
    /// When there are no more.
    pub fn reserve(&mut self) -> Result<Generation, HistoryError> {
        if let Some(store) = &mut self.store {
            return Ok(store.reserve()?);
        }
        self.reserved += 1;
        Ok(Generation(self.reserved))
    }

    /// Keeps a generation that is in force. With a store, it is on the disk when this returns.
    ///
    /// # Errors
    /// When the store does not take it; then it is not kept.
    pub fn append(&mut self, mut record: Record) -> Result<(), HistoryError> {
        if let Some(store) = &mut self.store {
            let entry = Entry {
                applied_at_ns: record.applied_at_ns,
                applied_by: record.applied_by.clone(),
                comment: record.comment.clone(),
                origin: record.origin.into(),
                policies: record.policies,
                groups: record.groups,
                destinations: record.destinations,
                changes: std::mem::take(&mut record.changes),
                policy_text: std::mem::take(&mut record.text),
            };
            for repair in store.append(record.generation, &entry)? {
                tracing::warn!(%repair, "the store of policies");
            }
        }
        self.reserved = self.reserved.max(record.generation.0);
        self.kept.push_back(record);
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        Ok(())
    }

    /// The generations that are kept, oldest first; what changed and the texts may be left out.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.kept.iter()
    }

    /// One of them, whole.
    ///
    /// # Errors
    /// [`HistoryError::NotKept`], and when the store cannot read it.
    pub fn get(&self, generation: Generation) -> Result<Record, HistoryError> {
        let found = self.kept.binary_search_by_key(&generation.0, |record| record.generation.0);
        let found = found.ok().and_then(|place| self.kept.get(place));
        let mut record = found.ok_or(HistoryError::NotKept(generation))?.clone();
        if let Some(store) = &self.store {
            let stored = store.get(generation)?;
            (record.text, record.changes) = (stored.policy_text, stored.changes.unwrap_or_default());
        }
        Ok(record)
    }

    /// The number of the one before `generation`.
    #[must_use]
    pub fn before(&self, generation: Generation) -> Option<Generation> {
        self.kept.iter().rev().map(|record| record.generation).find(|other| *other < generation)
    }
}

impl From<&Summary> for Record {
    fn from(summary: &Summary) -> Self {
        Self {
            generation: summary.generation,
            applied_at_ns: summary.applied_at_ns,
            applied_by: summary.applied_by.clone(),
            comment: summary.comment.clone(),
            origin: match summary.origin {
                sluice_store::Origin::Boot => Origin::File,
                sluice_store::Origin::Apply => Origin::Apply,
                sluice_store::Origin::Put => Origin::Put,
                sluice_store::Origin::Delete => Origin::Delete,
                sluice_store::Origin::Rollback { to } => Origin::Rollback(to),
            },
            policies: summary.policies,
            groups: summary.groups,
            destinations: summary.destinations,
            changes: Vec::new(),
            text: String::new(),
        }
    }
}

impl From<Origin> for sluice_store::Origin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::File => Self::Boot,
            Origin::Apply => Self::Apply,
            Origin::Put => Self::Put,
            Origin::Delete => Self::Delete,
            Origin::Rollback(to) => Self::Rollback { to },
        }
    }
}
