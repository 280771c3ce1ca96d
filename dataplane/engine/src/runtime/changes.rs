//! Changes of ports on their way to the threads and back: when has every thread let go of a port, or begun with it?

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use sluice_model::{PortConfig, PortId};

use super::port_state::{Device, PortState};
use crate::control_queues::{ControlQueues, PortChange};

/// What follows when every thread has taken a change.
#[derive(Debug)]
pub(super) enum Then {
    /// Somebody waits for it.
    Tell(Sender<()>),
    /// The device is closed, which somebody may wait for.
    Close { state: Arc<PortState>, setup: Box<PortConfig>, reply: Option<Sender<()>> },
    /// The port has this device.
    Replace { state: Arc<PortState>, device: Box<Device> },
}

#[derive(Debug)]
struct Pending {
    port: PortId,
    /// What was not handed out yet, by thread: to workers, then to distributors, who must not be ahead of them.
    steps: VecDeque<Vec<(usize, PortChange)>>,
    /// Threads that have not taken what was handed out.
    open: Vec<usize>,
    then: Then,
}

/// The changes that not every thread has taken yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In order; those of a port come one after the other.
    pending: Vec<Pending>,
    /// What is handed out, in order, with the number of the thread: there is room for a few in the queue of each.
    unsent: Vec<(usize, Box<PortChange>)>,
}

impl Changes {
    /// Has every thread take its change: the first so many are workers, the others distributors.
    pub(super) fn begin(&mut self, port: PortId, changes: Vec<PortChange>, workers: usize, then: Then) {
        let mut workers_step: Vec<_> = changes.into_iter().enumerate().collect();
        let distributors_step = workers_step.split_off(workers.min(workers_step.len()));
        let steps = [workers_step, distributors_step].into_iter().filter(|step| !step.is_empty()).collect();
        self.pending.push(Pending { port, steps, open: Vec::new(), then });
    }

    /// Whether a change of this port is on its way.
    pub(super) fn is_pending(&self, port: PortId) -> bool {
        self.pending.iter().any(|pending| pending.port == port)
    }

    /// Hands out what can be, and frees what threads gave back; returns the changes that all have taken.
    pub(super) fn poll(&mut self, queues: &[ControlQueues]) -> Vec<(PortId, Then)> {
        for (thread, queue) in queues.iter().enumerate() {
            while let Some(change) = queue.ports_back.pop() {
                if let Some(first) = self.pending.iter_mut().find(|pending| pending.port == change.port) {
                    first.open.retain(|open| *open != thread);
                }
            }
        }
        let done = self.advance();
        let mut waiting: Vec<(usize, Box<PortChange>)> = Vec::new();
        for (thread, change) in self.unsent.drain(..) {
            let Some(queue) = queues.get(thread) else { continue };
            let is_behind = waiting.iter().any(|(other, _)| *other == thread);
            if let Err(change) = if is_behind { Err(change) } else { queue.ports.push(change) } {
                waiting.push((thread, change));
            }
        }
        self.unsent = waiting;
        done
    }

    /// Goes on with the first change of each port, where all threads have taken what they have.
    fn advance(&mut self) -> Vec<(PortId, Then)> {
        let mut done = Vec::new();
        let mut busy: Vec<PortId> = Vec::new();
        let mut place = 0;
        while let Some(pending) = self.pending.get_mut(place) {
            if busy.contains(&pending.port) {
                place += 1;
                continue;
            }
            if pending.open.is_empty() {
                let Some(step) = pending.steps.pop_front() else {
                    let Pending { port, then, .. } = self.pending.remove(place);
                    done.push((port, then));
                    continue;
                };
                pending.open = step.iter().map(|(thread, _)| *thread).collect();
                self.unsent.extend(step.into_iter().map(|(thread, change)| (thread, Box::new(change))));
            }
            busy.push(pending.port);
            place += 1;
        }
        done
    }

    /// The threads have ended: frees what is on its way. Devices that came back count for their ports.
    pub(super) fn end(&mut self, queues: &[ControlQueues]) {
        self.unsent.clear();
        for queue in queues {
            while queue.ports.pop().or_else(|| queue.ports_back.pop()).is_some() {}
        }
        for pending in self.pending.drain(..) {
            if let Then::Replace { state, device } = pending.then {
                state.replace(*device);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn change(port: u16) -> PortChange {
        PortChange::new(PortId(port), Vec::new(), None, 1)
    }

    fn tell() -> Then {
        Then::Tell(channel().0)
    }

    /// Has a thread take so many changes; gives the ports of which it did.
    fn take(queues: &ControlQueues, most: usize) -> Vec<u16> {
        let taken: Vec<_> = (0..most).map_while(|_| queues.ports.pop()).collect();
        let ports = taken.iter().map(|change| change.port.0).collect();
        for change in taken {
            assert!(queues.ports_back.push(change).is_ok());
        }
        ports
    }

    fn ports(done: Vec<(PortId, Then)>) -> Vec<u16> {
        done.into_iter().map(|(port, _)| port.0).collect()
    }

    #[test]
    fn a_change_is_done_when_the_last_thread_has_taken_it() {
        let queues = [ControlQueues::new(1), ControlQueues::new(1)];
        let mut changes = Changes::default();
        for port in [3, 3, 4] {
            changes.begin(PortId(port), vec![change(port), change(port)], 2, tell());
        }
        assert_eq!(ports(changes.poll(&queues)), []);
        // Of a port one comes after the other, of others at the same time.
        assert_eq!(take(&queues[0], 9), [3, 4]);
        assert_eq!(ports(changes.poll(&queues)), []);
        assert_eq!((take(&queues[0], 9), take(&queues[1], 1)), (vec![], vec![3]));
        assert_eq!(ports(changes.poll(&queues)), [3]);
        assert!(changes.is_pending(PortId(3)) && changes.is_pending(PortId(4)));
        assert_eq!((take(&queues[0], 9), take(&queues[1], 9)), (vec![3], vec![4, 3]));
        assert_eq!(ports(changes.poll(&queues)), [3, 4]);
        assert!(!changes.is_pending(PortId(3)) && changes.pending.is_empty());
    }

    #[test]
    fn distributors_come_after_the_workers() {
        let queues = [ControlQueues::new(1), ControlQueues::new(1), ControlQueues::new(1)];
        let mut changes = Changes::default();
        changes.begin(PortId(3), (0..3).map(|_| change(3)).collect(), 2, tell());
        drop(changes.poll(&queues));
        assert_eq!(take(&queues[0], 1), [3]);
        drop(changes.poll(&queues));
        assert!(queues[2].ports.is_empty(), "a worker has not taken it");
        assert_eq!(take(&queues[1], 1), [3]);
        assert_eq!(ports(changes.poll(&queues)), []);
        assert_eq!(take(&queues[2], 1), [3]);
        assert_eq!(ports(changes.poll(&queues)), [3]);
    }

    #[test]
    fn more_changes_than_fit_wait_in_order() {
        let queues = [ControlQueues::new(1)];
        let mut changes = Changes::default();
        (0..40).for_each(|port| changes.begin(PortId(port), vec![change(port)], 1, tell()));
        let (mut taken, mut done) = (Vec::new(), Vec::new());
        while done.len() < 40 {
            done.extend(ports(changes.poll(&queues)));
            taken.extend(take(&queues[0], 7));
        }
        assert!(taken.iter().copied().eq(0..40) && done == taken, "{taken:?}");
        // What nobody takes any more is freed.
        changes.begin(PortId(1), vec![change(1)], 1, tell());
        drop(changes.poll(&queues));
        changes.end(&queues);
        assert!(queues[0].ports.is_empty() && changes.pending.is_empty());
    }
}
