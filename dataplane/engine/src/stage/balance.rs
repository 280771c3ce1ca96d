//! Which member of a group gets the copy?
//!
//! A copy to a group goes to one of its members: the one that the packet's flow prefers among those that are there. A
//! member whose next hop is unresolved or whose port is down is away. When all are, the copy goes to the one that the
//! flow prefers of all, and is dropped there for that one's reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk::Mbuf;
use sluice_core::balance::{Preferences, flow_hash};
use sluice_core::classify::{Classifier, Program};
use sluice_core::verdict::CopyAction;
use sluice_model::{DestinationId, Group, GroupHash, PolicySet};

use crate::batch::{BATCH, Batch, Run};
use crate::output::Output;

/// The groups as all workers share them, by destination number.
#[derive(Clone, Debug)]
pub struct SharedGroups(Vec<Option<SharedGroup>>);

#[derive(Clone, Debug)]
struct SharedGroup {
    preferences: Arc<Preferences>,
    members: Arc<[DestinationId]>,
    inner: bool,
    /// Bit i: member i is there, as the worker that looked last saw it (workers: w, others: r).
    present: Arc<AtomicU64>,
}

impl SharedGroups {
    /// The groups among the destinations; `None` = there is none.
    #[must_use]
    pub fn new(policies: &PolicySet) -> Option<Self> {
        let all = policies.destinations();
        let name = |destination: DestinationId| all.get(destination.index()).map_or("", |d| &*d.name);
        let shared = |group: &Group| {
            let members: Vec<_> =
                group.members.iter().map(|member| (name(member.destination), member.weight)).collect();
            SharedGroup {
                preferences: Arc::new(Preferences::new(&members)),
                members: group.members.iter().map(|member| member.destination).collect(),
                inner: group.hash != GroupHash::Outer,
                present: Arc::new(AtomicU64::new(u64::MAX)),
            }
        };
        let groups: Vec<_> = all.iter().map(|destination| destination.group().map(shared)).collect();
        groups.iter().any(Option::is_some).then_some(Self(groups))
    }

    /// The members of each group that are away, by destination number; none for other destinations.
    #[must_use]
    pub fn away(&self) -> Vec<Vec<DestinationId>> {
        let away = |group: &SharedGroup| {
            let present = group.present.load(Ordering::Relaxed);
            let members = group.members.iter().enumerate();
            members.filter(|(bit, _)| present >> bit & 1 == 0).map(|(_, member)| *member).collect()
        };
        self.0.iter().map(|group| group.as_ref().map(away).unwrap_or_default()).collect()
    }
}

/// One worker's view of the groups.
#[derive(Debug)]
pub struct Balance {
    groups: Box<[Option<WorkerGroup>]>,
    program: Arc<Program>,
    /// The numbers of the packets' flows by their outer and by their inner headers, where a group asked for them.
    hashes: Box<[[u64; BATCH]; 2]>,
}

#[derive(Debug)]
struct WorkerGroup {
    shared: SharedGroup,
    present: u64,
}

impl Balance {
    /// A worker's view; `program` was compiled from the policies that `groups` are of.
    #[must_use]
    pub fn new(groups: &SharedGroups, program: Arc<Program>) -> Self {
        let group = |shared: SharedGroup| WorkerGroup { shared, present: u64::MAX };
        Self {
            groups: groups.0.iter().map(|shared| shared.clone().map(group)).collect(),
            program,
            hashes: Box::new([[0; BATCH]; 2]),
        }
    }

    /// Looks which members are there.
    pub fn refresh(&mut self, outputs: &[Output]) {
        for group in self.groups.iter_mut().flatten() {
            let there = |member: &DestinationId| outputs.get(member.index()).is_some_and(|o| !o.is_away());
            let bits = group.shared.members.iter().enumerate();
            let present = bits.fold(0, |bits, (bit, member)| bits | u64::from(there(member)) << bit);
            if present != group.present {
                group.present = present;
                group.shared.present.store(present, Ordering::Relaxed);
            }
        }
    }

    /// Works out the numbers of the flows of the packets in `runs` that go to groups. `with_inner`: the innermost
    /// headers were parsed.
    pub fn prepare(&mut self, batch: &Batch, runs: &[Run], classifier: &Classifier, with_inner: bool) {
        for run in runs {
            for copy in classifier.action_set(run.verdict).copies {
                let Some(Some(group)) = self.groups.get(copy.destination.index()) else { continue };
                let inner = group.shared.inner;
                let row = &mut self.hashes[usize::from(inner)];
                for place in run.places() {
                    let headers = match (inner, with_inner) {
                        (false, _) => &batch.outer[place],
                        (true, true) => &batch.inner[place],
                        (true, false) => batch.view(place),
                    };
                    let frame = batch.mbufs[place].as_ref().map_or(&[][..], Mbuf::data);
                    row[place] = flow_hash(frame, headers);
                }
            }
        }
    }

    /// For a copy to a group: what it is for the member that has the packet at `place`, which was prepared; `None` for
    /// any other copy.
    #[inline]
    #[must_use]
    pub fn member(&self, copy: &CopyAction, place: usize) -> Option<CopyAction> {
        let group = self.groups.get(copy.destination.index())?.as_ref()?;
        let hash = self.hashes[usize::from(group.shared.inner)][place];
        let preferences = &group.shared.preferences;
        let number = preferences.pick(hash, group.present).or_else(|| preferences.favourite(hash))?;
        let destination = *group.shared.members.get(number)?;
        let stream = *self.program.member_streams(copy.stream).get(number)?;
        Some(CopyAction { destination, stream, ..*copy })
    }
}
