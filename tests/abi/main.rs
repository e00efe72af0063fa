//! The binary interface: what C sees of this library is what the Rust source says, and nothing else.

mod compile;
mod header;
mod layout;
mod symbols;
