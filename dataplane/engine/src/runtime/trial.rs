//! Trying policies on live traffic: they count what they would match, and decide nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use sluice_core::classify::{Origins, Program};
use sluice_model::{Generation, PolicySet};

use super::Engine;
use crate::control_queues::ControlQueues;
use crate::shadow::{Row, Shadow, ShadowCounts};

/// How long the end of a trial waits for the workers to give its memory back; they do when they look next.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often to look whether they did.
const ROUND: Duration = Duration::from_micros(200);

/// Why policies are not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// Others are.
    #[error("another dry run counts on live traffic: wait until it has ended")]
    Busy,
}

/// Packets, or copies, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrialRow {
    /// How many.
    pub packets: u64,
    /// Their lengths in bytes.
    pub bytes: u64,
}

/// What was counted so far, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrialCounts {
    /// Packets that were looked at, with their original lengths.
    pub all: TrialRow,
    /// Packets that would not be copied.
    pub unmatched: TrialRow,
    /// Matched packets with their original lengths, by policy number.
    pub policies: Vec<TrialRow>,
    /// Copies with their lengths after truncation, without tunnel headers, by destination number; a group's for itself.
    pub destinations: Vec<TrialRow>,
}

/// A trial. It ends when this is dropped, which may take a moment; not to be dropped in async code.
#[derive(Debug)]
pub struct Trial {
    queues: Vec<ControlQueues>,
    counts: Vec<Arc<ShadowCounts>>,
    sampling: u32,
    busy: Arc<AtomicBool>,
}

impl Engine {
    /// Begins to count what `policies` would match of the traffic that passes: of all packets that the policies in force
    /// decide on, so without duplicates where these are dropped.
    ///
    /// # Errors
    /// [`TrialError::Busy`]: one trial at a time.
    pub fn try_out(&self, policies: &PolicySet) -> Result<Trial, TrialError> {
        let (site, queues, busy) = {
            let deployer = self.deployer.lock().unwrap_or_else(PoisonError::into_inner);
            (Arc::clone(&deployer.site), deployer.queues.clone(), Arc::clone(&deployer.trial))
        };
        if busy.swap(true, Ordering::Acquire) {
            return Err(TrialError::Busy);
        }
        let names = site.boot.port_names();
        let origins = Origins { ports: &names, taps: &site.boot.mirror.taps };
        let (program, _) = Program::compile_for(policies, &origins, Generation::default());
        let program = Arc::new(program);
        let rows = [policies.policies().len(), policies.destinations().len()];
        let mut trial = Trial { counts: Vec::with_capacity(queues.len()), queues, sampling: 1, busy };
        for queues in &trial.queues {
            let shadow = Shadow::new(Arc::clone(&program), rows, site.decapsulates);
            trial.counts.push(shadow.counts());
            trial.sampling = shadow.sampling();
            drop(queues.shadow_back.pop());
            // What an earlier trial left there, its end, is not needed any more.
            drop(queues.shadow.force_push(Some(shadow)));
        }
        Ok(trial)
    }
}

impl Trial {
    /// One packet in so many is looked at.
    #[must_use]
    pub fn sampling(&self) -> u32 {
        self.sampling
    }

    /// The counts at this moment; each is read on its own, so they may be some batches apart.
    #[must_use]
    pub fn counts(&self) -> TrialCounts {
        let mut sum = TrialCounts::default();
        for counts in &self.counts {
            sum.all.add(&counts.all);
            sum.unmatched.add(&counts.unmatched);
            add_all(&mut sum.policies, &counts.policies);
            add_all(&mut sum.destinations, &counts.destinations);
        }
        sum
    }
}

impl TrialRow {
    fn add(&mut self, row: &Row) {
        self.packets += row.packets.get();
        self.bytes += row.bytes.get();
    }
}

fn add_all(sums: &mut Vec<TrialRow>, rows: &[Row]) {
    sums.resize(rows.len(), TrialRow::default());
    for (sum, row) in sums.iter_mut().zip(rows) {
        sum.add(row);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        for queues in &self.queues {
            // If it was not even taken, it comes back here.
            drop(queues.shadow.force_push(None));
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.queues.iter().any(|queues| !queues.shadow.is_empty()) {
            std::thread::sleep(ROUND);
        }
        for queues in &self.queues {
            // A worker gives back before it can be seen that it took; one that is late is relieved by the next trial.
            drop(queues.shadow_back.pop());
        }
        self.busy.store(false, Ordering::Release);
    }
}
