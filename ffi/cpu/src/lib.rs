//! Safe wrappers of CPU instructions the packet path needs.
