//! What does a worker do by policy? All that a new generation of policies replaces, in one piece.
//!
//! It is made by whoever may allocate, handed to the worker whole, and comes back whole to be freed. Tables of flows and
//! duplicates, queues and ports are not part of it: they outlive policies.

use std::sync::Arc;

use sluice_core::classify::{Classifier, ClassifierConfig, Program};
use sluice_model::{DestinationId, Generation};

use crate::counters::Tables;
use crate::files::FileProducer;
use crate::gate::CaptureLimit;
use crate::output::Output;
use crate::sequence::Sequences;
use crate::stage::balance::Balance;
use crate::stage::classify::Classify;
use crate::stage::guard::LoopGuard;
use crate::stage::limit::Limits;
use crate::tally::Tallies;
use crate::tap::Names;

/// What a deployment is made of.
#[derive(Debug)]
pub struct DeploymentParts {
    /// The compiled policies.
    pub program: Arc<Program>,
    /// Destinations by number.
    pub outputs: Vec<Output>,
    /// Rate limits; `None` = there are none.
    pub limits: Option<Limits>,
    /// Destinations that are groups; `None` = there are none.
    pub balance: Option<Balance>,
    /// Sequence numbers.
    pub sequences: Sequences,
    /// Recognises our own copies.
    pub guard: LoopGuard,
    /// The queue to the file writer.
    pub files: Option<FileProducer>,
    /// Counters by policy and destination.
    pub tables: Arc<Tables>,
}

/// One generation of policies, as one worker uses it.
#[derive(Debug)]
pub struct Deployment {
    pub(crate) program: Arc<Program>,
    /// The worker's verdict tables for that program.
    pub(crate) classifier: Classifier,
    pub(crate) classify: Box<Classify>,
    pub(crate) outputs: Vec<Output>,
    /// Whether any destination numbers its copies.
    pub(crate) numbered: bool,
    pub(crate) limits: Option<Limits>,
    pub(crate) balance: Option<Balance>,
    pub(crate) sequences: Sequences,
    pub(crate) guard: LoopGuard,
    pub(crate) files: Option<FileProducer>,
    pub(crate) tallies: Tallies,
    pub(crate) tables: Arc<Tables>,
    /// What captures call policies and destinations.
    pub(crate) names: Arc<Names>,
    /// How many packets may come in; `None` = any number.
    pub(crate) capture_limit: Option<CaptureLimit>,
}

impl Deployment {
    /// A deployment of these parts, with all memory that it will ever use. `decapsulates`: the worker takes tunnels off.
    #[must_use]
    pub fn new(parts: DeploymentParts, decapsulates: bool) -> Box<Self> {
        let DeploymentParts { program, mut outputs, limits, balance, sequences, guard, files, tables } =
            parts;
        for (output, number) in outputs.iter_mut().zip(0..) {
            output.limited = limits.as_ref().is_some_and(|limits| limits.limits(DestinationId(number)));
        }
        let classifier = Classifier::new(&program, ClassifierConfig::default());
        Box::new(Self {
            classify: Classify::new(&program, decapsulates),
            numbered: outputs.iter().any(Output::uses_sequence),
            tallies: Tallies::new(&classifier),
            program,
            classifier,
            outputs,
            limits,
            balance,
            sequences,
            guard,
            files,
            tables,
            names: Arc::default(),
            capture_limit: None,
        })
    }

    /// With these names of its policies and destinations, which captures ask for.
    #[must_use]
    pub fn with_names(mut self: Box<Self>, names: Arc<Names>) -> Box<Self> {
        self.names = names;
        self
    }

    /// With no more packets coming in than `limit` says; by default all do.
    #[must_use]
    pub fn with_capture_limit(mut self: Box<Self>, limit: Option<CaptureLimit>) -> Box<Self> {
        self.capture_limit = limit;
        self
    }

    /// The generation of its policies.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.program.generation()
    }

    /// Adds what was counted for so many verdicts, at most, to the counters of policies and destinations.
    #[inline]
    pub(crate) fn fold(&mut self, verdicts: usize) {
        self.tallies.fold(verdicts, &self.classifier, &self.tables);
    }

    /// Takes the place of `before`, whose verdicts may be kept with flows: these must not be taken for its own.
    pub(crate) fn succeed(&mut self, before: &Self) {
        self.classifier.start_at(before.classifier.stamp().wrapping_add(1));
    }
}
