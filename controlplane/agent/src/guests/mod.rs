//! What do the names of virtual machines and ports in policies stand for, and how do policies follow when that changes?
//!
//! [`OvsWatch`] follows the database of Open vSwitch on threads of its own. When a name that policies in force have comes to
//! stand for other addresses, the same policies are put in force anew, by [`Policies`](crate::Policies), between two
//! batches, as a change of policies is; but it is no new generation: nobody has changed what is asked for, and a machine
//! that moves to and fro would push out of the history what operators did. [`GuestBook`] is what everybody sees of it.

mod book;
mod watch;

pub use book::{GuestBook, GuestReport};
pub use watch::OvsWatch;
