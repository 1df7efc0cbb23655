//! Faults, layers and secrets, as a user meets them.
