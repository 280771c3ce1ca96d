//! Performance scenarios of Sluice.
