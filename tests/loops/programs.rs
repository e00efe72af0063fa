//! C programs
