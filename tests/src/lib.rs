//! End-to-end tests and golden captures of Sluice.
