//! The commands, one file each.

pub(crate) mod apply;
pub(crate) mod capture;
pub(crate) mod completions;
pub(crate) mod counters;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod flows;
pub(crate) mod guests;
pub(crate) mod history;
pub(crate) mod man;
pub(crate) mod object;
pub(crate) mod ovs;
pub(crate) mod rollback;
pub(crate) mod status;
pub(crate) mod switch;
pub(crate) mod talkers;
pub(crate) mod top;
