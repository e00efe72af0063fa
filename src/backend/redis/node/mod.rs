//! One server: its links, and which call goes over which of them.

pub mod combine;
pub mod lease;
pub mod links;
pub mod pool;
pub mod self_drive;
pub mod submit;
