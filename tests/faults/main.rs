//! Time and failure, through the C symbols: against a scripted server, a breaking network, and real servers in trouble.
//! Scenarios that hold for every call are run for each [`Face`](support::capi::Face): synchronous, submitted and waited
//! for, submitted and polled for. What only submitted calls have is in `tests/asynchronous`.

#[path = "../support/mod.rs"]
mod support;

mod closed_links;
mod closing;
mod combined_calls;
mod deadlines;
mod down;
mod excess;
mod far_servers;
mod hostile;
mod idle_links;
mod late_replies;
mod processes;
mod refusals;
mod retries;
mod server_states;
mod sockets;
mod transactions_and_clears;
